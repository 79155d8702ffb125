"""Shards as streams: the same batches as from ranges, and errors that name the shard and sample."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.loader import Loader
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.data.reading.stream_reader import StreamReader
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.manifest import Manifest
from tests import s3_server

STEPS = 30
SOURCE = SynthSource(300, missing=0.2)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """210 samples in shards of 25."""
    place = tmp_path_factory.mktemp("packed")
    pack(SOURCE, str(place), PackOptions(shard_samples=25))
    return str(place / "train")


def batches(
    reader: ShardReader, rank: int, world: int, skip_steps: int = 0, **options: int
) -> list[tuple[object, ...]]:
    """Keys, slots and sums of features of some steps, more than an epoch."""
    spec = BatchSpec.from_manifest(reader.manifest, ["text", "audio", "vision"], ["audio"])
    order = {"global_batch": 16, "lanes": 8, "delay": 15, "seed": 1, "rank": rank, "world": world, **options}
    with Loader(reader, spec, **order) as loader:  # type: ignore[arg-type]
        cursor = loader.start
        for _ in range(skip_steps):
            cursor = cursor.advance(14)
        found = []
        for step in islice(loader.steps(cursor), STEPS - skip_steps):
            for batch in step.micro_batches:
                sums = [float(part.features.double().sum()) for part in batch.modalities.values()]
                found.append((batch.keys, batch.slots.tolist(), sums))
        return found


def opened(kind: type[ShardReader], place: str, cache_bytes: int = 1 << 30, **options: str) -> ShardReader:
    return kind(place, Manifest.load(place), cache_bytes, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("cache_bytes", [0, 60_000, 1 << 30])
def test_the_same_batches_as_from_ranges(packed: str, world: int, cache_bytes: int) -> None:
    for rank in range(world):
        expected = batches(opened(ShardReader, packed), rank, world)
        assert batches(opened(StreamReader, packed, cache_bytes), rank, world) == expected
        assert batches(opened(StreamReader, packed, cache_bytes), rank, world, skip_steps=9) == expected[9:]


def test_through_a_command(packed: str, tmp_path: Path) -> None:
    place = tmp_path / "a folder's"
    shutil.copytree(packed, place)
    expected = batches(opened(ShardReader, packed), 0, 1)
    assert batches(opened(StreamReader, str(place), pipe="cat {}"), 0, 1) == expected


@pytest.mark.xdist_group("s3")
def test_from_s3(packed: str, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{s3_server.BUCKET}/streamed"
    pack(SOURCE, url, PackOptions(shard_samples=25))
    assert batches(opened(StreamReader, f"{url}/train"), 0, 2) == batches(opened(ShardReader, packed), 0, 2)


@pytest.fixture
def reader(packed: str, tmp_path: Path) -> Iterator[StreamReader]:
    place = Path(shutil.copytree(packed, tmp_path / "train"))
    shard = place / Manifest.load(str(place)).shards[1].name
    shard.write_bytes(shard.read_bytes()[:10_000])
    found = opened(StreamReader, str(place))
    assert isinstance(found, StreamReader)
    yield found
    found.close()


def test_a_shard_that_ends_early_is_an_error_in_place_of_its_samples(reader: StreamReader) -> None:
    (found,) = reader.read_ahead([np.array([3, 49, 0])])
    assert len(found.samples) == 2
    ((place, lost),) = found.failures.items()
    assert place == 1 and isinstance(lost.error, CorruptDataError)
    assert "000001.tar" in lost.error.where and "\n" not in str(lost.error)


def test_a_missing_shard_is_no_damage(packed: str, tmp_path: Path) -> None:
    """So that it is never skipped."""
    place = Path(shutil.copytree(packed, tmp_path / "train"))
    (place / Manifest.load(str(place)).shards[0].name).unlink()
    reader = opened(StreamReader, str(place))
    with pytest.raises(DataError, match="shard file is missing"):
        reader.read(np.array([0]))
    reader.close()


@pytest.mark.parametrize("pipe", ["exit 3; {}", "head -c 3000 {}", "true {}"])
def test_a_command_that_fails(packed: str, pipe: str) -> None:
    reader = opened(StreamReader, packed, pipe=pipe)
    with pytest.raises(CorruptDataError, match=r"data\.pipe|does not hold"):
        reader.read(np.array([20]))
    reader.close()


def test_a_sample_may_be_requested_again(packed: str) -> None:
    reader = opened(StreamReader, packed)
    first = reader.read(np.array([7, 3, 7])).ids
    assert first == opened(ShardReader, packed).read(np.array([7, 3, 7])).ids
    reader.close()


def test_a_command_ends_with_its_stream_also_where_sigterm_is_blocked(packed: str) -> None:
    """As in workers on a cluster that the command started, whose commands inherit that unless their shell undoes it."""
    blocked = "exec env --block-signal=TERM"
    reader = opened(StreamReader, packed, pipe=f"{blocked} bash -c 'cat {{}}; exec sleep 30'")
    reader.read(np.arange(1))
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 10
