"""Readers of a pool's corpora share one disk cache: contents do not mix, and its limit holds for all together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import pytest

from ivr_dist import storage
from ivr_dist.config.corpora import split_urls
from ivr_dist.config.loading import load_config
from ivr_dist.data.build_order import build_order
from ivr_dist.data.pooled_loader import PooledLoader
from ivr_dist.orchestration.preflight import absolute
from ivr_dist.packing.pack import PackOptions
from ivr_dist.planning.plan import plan_run
from ivr_dist.shards.manifest import Manifest
from ivr_dist.training.run_spec import run_spec
from ivr_dist.training.splits import open_splits
from tests import s3_server
from tests.fault_proxy import Proxy, wait_until
from tests.pools import SIZES, pack_pool, pool_run

pytestmark = pytest.mark.xdist_group("s3")

STEPS = 25
"""Two epochs of the pool."""
OPTIONS = PackOptions(shard_samples=10)
REMOTE = f"s3://{s3_server.BUCKET}/cached"

Step = list[tuple[list[str], dict[str, float]]]
"""Ids and sums of features of each micro-batch."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    pack_pool(str(folder), OPTIONS)
    return folder


def upload(pool: Path) -> None:
    """Copy the packed pool, which takes a fifth of packing it there."""
    for file in pool.rglob("*.*"):
        storage.write_bytes(f"{REMOTE}/{file.relative_to(pool)}", file.read_bytes())


@contextmanager
def opened(folder: str, *overrides: str) -> Iterator[PooledLoader]:
    """The training splits of the pool below a folder, as a run opens them."""
    settings = absolute(load_config(None, [*pool_run(folder, Path("unused")), *overrides]))
    manifests = {name: Manifest.load(url) for name, url in split_urls(settings).items()}
    layout, spec = run_spec(settings, manifests, None)
    plan = plan_run(settings, manifests, 1)
    order = build_order(settings, plan, manifests, {name: layout.number(name) for name in SIZES})
    with open_splits(settings, plan, manifests, spec, order, lambda text: None, {}) as splits:
        assert isinstance(splits.train, PooledLoader)
        yield splits.train


def steps_of(loader: PooledLoader) -> Iterator[Step]:
    for step in islice(loader.steps(loader.order.start), STEPS):
        yield [
            (
                list(batch.keys),
                {
                    f"{modality} {name}": float(steps.features.double().sum())
                    for modality, part in batch.modalities.items()
                    for name, steps in part.sets.items()
                },
            )
            for batch in step.micro_batches
        ]


def cached_bytes(cache: Path) -> list[bytes]:
    """What the cache holds; files come and go meanwhile."""
    found = []
    for path in cache.glob("??/[!p]*"):
        with suppress(FileNotFoundError):
            found.append(path.read_bytes())
    return found


def test_it_holds_the_ranges_of_every_corpus_apart(pool: Path, s3_proxy: Proxy, tmp_path: Path) -> None:
    """A second run has the same batches without a request to storage."""
    upload(pool)
    with opened(str(pool)) as loader:
        expected = list(steps_of(loader))

    def read() -> list[tuple[str, str]]:
        """Ranges that were requested from storage."""
        with opened(REMOTE, f"data.disk_cache={tmp_path}", "data.cache_bytes=0B") as loader:
            # Balanced classes are counted while the run is opened, by a reader of their own.
            before = len(s3_proxy.requests)
            assert list(steps_of(loader)) == expected
            return [(path, span) for path, span, _ in s3_proxy.requests[before:] if path.endswith(".tar")]

    asked = read()
    assert {path.split("/")[3] for path, _ in asked} == set(SIZES)
    assert read() == [], "another run reads from the cache alone"
    shards = {name: [path.read_bytes() for path in (pool / name / "train").glob("*.tar")] for name in SIZES}
    kept = cached_bytes(tmp_path)
    assert len(kept) == len(set(asked))
    owners = [[name for name in SIZES if any(data in shard for shard in shards[name])] for data in kept]
    assert {tuple(names) for names in owners} == {(name,) for name in SIZES}


def test_its_limit_holds_for_all_corpora_together(pool: Path, s3_proxy: Proxy, tmp_path: Path) -> None:
    """Also when many threads write at once, and none after them."""
    upload(pool)
    limit = 150_000
    train = {name: sum(file.stat().st_size for file in (pool / name / "train").glob("*.tar")) for name in SIZES}
    assert sum(train.values()) > 2 * limit and min(train.values()) > limit
    with opened(str(pool)) as loader:
        expected = list(steps_of(loader))
    sizes = []

    def within() -> bool:
        sizes.append(sum(map(len, cached_bytes(tmp_path))))
        return sizes[-1] <= limit * 9 // 8

    options = (f"data.disk_cache={tmp_path}", f"data.disk_cache_bytes={limit}B", "data.cache_bytes=0B")
    with opened(REMOTE, *options) as loader:
        for step, own in zip(expected, steps_of(loader), strict=True):
            assert own == step
            wait_until(within)
    assert max(sizes) > limit / 2
