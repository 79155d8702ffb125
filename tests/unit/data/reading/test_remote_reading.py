"""Whole epochs from a real S3 server through a fault-injecting proxy; loaders in forked and spawned processes."""

from __future__ import annotations

import multiprocessing
import random
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.loader import Loader
from ivr_dist.data.reading.disk_cache import DiskCache
from ivr_dist.data.reading.fetcher import Fetcher, FetchPolicy
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import IvrError
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.manifest import Manifest
from tests import s3_server
from tests.fault_proxy import Finding, Proxy

pytestmark = pytest.mark.xdist_group("s3")

SOURCE = SynthSource(300, dims={"text": 300, "audio": 74, "vision": 35})
OPTIONS = PackOptions(shard_bytes=3 << 19)
POLICY = FetchPolicy(deadline_s=30.0, attempt_s=2.0, first_backoff_s=0.02, max_backoff_s=0.2, wrong_answers=8)
SEED = 5


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A split of several shards with several segments each."""
    place = tmp_path_factory.mktemp("packed")
    pack(SOURCE, str(place), OPTIONS)
    return str(place / "train")


@pytest.fixture
def remote(s3_proxy: Proxy) -> str:
    """The same on S3."""
    url = f"s3://{s3_server.BUCKET}/reading"
    pack(SOURCE, url, OPTIONS)
    return f"{url}/train"


def open_loader(url: str, fetcher: Fetcher | None = None, **options: Any) -> Loader:
    manifest = Manifest.load(url)
    spec = BatchSpec.from_manifest(manifest, ["text", "audio", "vision"], ["audio"])
    order = {"global_batch": 32, "lanes": 8, "delay": 20, "seed": SEED}
    return Loader(ShardReader(url, manifest, 1 << 22, fetcher), spec, **{**order, **options})


def epoch_of(url: str, fetcher: Fetcher | None = None) -> list[tuple[list[str], float]]:
    """Ids and a sum of features of every step of one epoch."""
    with open_loader(url, fetcher) as loader:
        steps = -(-loader.reader.manifest.samples // 32)
        found = []
        for step in islice(loader.steps(loader.start), steps):
            (batch,) = step.micro_batches
            parts = batch.modalities.values()
            found.append((batch.keys, sum(float(part.features.double().sum()) for part in parts)))
        return found


def test_an_epoch_through_every_kind_of_fault(local: str, remote: str, s3_proxy: Proxy) -> None:
    draw = random.Random(0)
    faults = [fault for fault in get_args(Finding) if fault != "403"]

    def choose(path: str, count: int) -> Finding | None:
        return draw.choice(faults) if count < 3 and draw.random() < 0.4 else None

    s3_proxy.choose, s3_proxy.slow_s = choose, 0.2
    fetcher = Fetcher(POLICY)
    assert epoch_of(remote, fetcher) == epoch_of(local)
    met = {fault for _, _, fault in s3_proxy.requests if fault}
    assert len(met) >= 4
    counts = fetcher.meters.counts()
    assert counts.retries > 3 and counts.requests > 5


@pytest.mark.parametrize("fault", ["503", "stall", "flip"])
def test_an_outage_is_one_error_within_the_deadline(remote: str, s3_proxy: Proxy, fault: Finding) -> None:
    s3_proxy.choose = lambda path, count: fault if path.endswith(".tar") else None
    started = time.monotonic()
    with pytest.raises(IvrError) as caught:
        epoch_of(remote, Fetcher(replace(POLICY, attempt_s=0.5, deadline_s=1.5)))
    assert time.monotonic() - started < 10
    assert ".tar" in str(caught.value) and "\n" not in str(caught.value)


def test_a_second_epoch_comes_from_the_disk_cache(local: str, remote: str, s3_proxy: Proxy, tmp_path: Path) -> None:
    first = Fetcher(POLICY, DiskCache(str(tmp_path), 1 << 30))
    expected = epoch_of(local)
    assert epoch_of(remote, first) == expected
    asked = [path for path, _, _ in s3_proxy.requests if path.endswith(".tar")]
    assert asked
    assert epoch_of(remote, Fetcher(POLICY, DiskCache(str(tmp_path), 1 << 30))) == expected
    assert [path for path, _, _ in s3_proxy.requests if path.endswith(".tar")] == asked


def _read_in_child(url: str, answers: Any, loader: Loader | None = None) -> None:
    loader = loader or open_loader(url)
    step = next(iter(loader.steps(loader.start)))
    answers.put(step.micro_batches[0].keys)
    loader.close()


@pytest.mark.parametrize("place", ["local", "remote"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_a_child_process(request: pytest.FixtureRequest, place: str, method: str) -> None:
    """The parent has reader threads when the child is forked."""
    url = request.getfixturevalue(place)
    with open_loader(url) as loader:
        steps = loader.steps(loader.start)
        expected = next(steps).micro_batches[0].keys
        context: Any = multiprocessing.get_context(method)
        answers = context.Queue()
        child = context.Process(target=_read_in_child, args=(url, answers), daemon=True)
        child.start()
        assert answers.get(timeout=60) == expected
        child.join(30)
        assert child.exitcode == 0
        next(steps)


@pytest.mark.parametrize("place", ["local", "remote"])
def test_an_open_loader_continues_in_a_forked_child(request: pytest.FixtureRequest, place: str) -> None:
    url = request.getfixturevalue(place)
    with open_loader(url, prefetch=100) as loader:
        steps = loader.steps(loader.start)
        expected = next(steps).micro_batches[0].keys
        context: Any = multiprocessing.get_context("fork")
        for _ in range(3):
            answers = context.Queue()
            child = context.Process(target=_read_in_child, args=(url, answers, loader), daemon=True)
            child.start()
            assert answers.get(timeout=60) == expected
            child.join(30)
            assert child.exitcode == 0
        next(steps)


@pytest.mark.parametrize(("width", "samples"), [(8, 6000), (1_000, 600), (100_000, 20)])
def test_memory_stays_within_the_limit(tmp_path: Path, width: int, samples: int) -> None:
    """With samples of about 1 KB, 100 KB and 10 MB; the segments of one request are in memory in any case."""
    pack(SynthSource(samples, dims={"text": width}), str(tmp_path), PackOptions(shard_bytes=8 << 20))
    url = str(tmp_path / "train")
    manifest = Manifest.load(url)
    limit = 3 << 20
    reader = ShardReader(url, manifest, limit)
    shards = reader._shards.get(range(len(manifest.shards)))
    largest = max(end - start for shard in shards for start, end in zip(shard.starts, shard.ends, strict=True))
    order = np.random.default_rng(0).permutation(manifest.samples)
    seen = 0
    for found in reader.read_ahead(order[i : i + 1] for i in range(len(order))):
        seen += len(found.samples)
        assert reader.resident <= limit + largest
    assert seen == manifest.samples
    reader.close()
