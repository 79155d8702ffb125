"""Random access to samples of a packed corpus on disk, intact and damaged."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.reading.shard_indexes import OpenShard
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import CorruptDataError, DataError, IvrError
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.packing.shard_writer import shuffled
from ivr_dist.shards.index import load
from ivr_dist.shards.manifest import Manifest
from tests.packed import Members, change_array, change_members

SOURCE = SynthSource(260, dims={"text": 300, "audio": 74, "vision": 35})
REFS = shuffled(SOURCE.splits()["train"], 0)
EVERYTHING = 1 << 40


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of several shards with several segments each; not to be changed."""
    place = tmp_path_factory.mktemp("packed")
    pack(SOURCE, str(place), PackOptions(shard_bytes=3 << 19))
    return place / "train"


@pytest.fixture
def damaged(packed: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(packed, tmp_path / "train"))


def open_reader(place: Path, cache_bytes: int = EVERYTHING) -> ShardReader:
    return ShardReader(str(place), Manifest.load(str(place)), cache_bytes)


def check_sample(reader: ShardReader, numbers: list[int]) -> None:
    """Compare with what was packed."""
    for number, found in zip(numbers, reader.read(np.array(numbers)), strict=True):
        expected = SOURCE.load("train", REFS[number])
        assert found.id == expected.id
        assert found.labels == expected.labels
        assert found.arrays.keys() == expected.arrays.keys()
        for name, array in expected.arrays.items():
            np.testing.assert_array_equal(found.arrays[name], array)


def failure(reader: ShardReader, numbers: list[int]) -> IvrError:
    with pytest.raises(IvrError) as caught:
        reader.read(np.array(numbers))
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def test_the_corpus_of_these_tests_has_shards_and_segments(packed: Path) -> None:
    manifest = Manifest.load(str(packed))
    assert len(manifest.shards) >= 3
    assert max(len(load(str(packed / shard.index.name)).xxh3) for shard in manifest.shards) >= 2


@pytest.mark.parametrize("cache_bytes", [0, 1 << 21, EVERYTHING])
def test_any_numbers_in_any_order(packed: Path, cache_bytes: int) -> None:
    reader = open_reader(packed, cache_bytes)
    random = np.random.default_rng(0)
    for _ in range(5):
        check_sample(reader, random.integers(0, len(REFS), 40).tolist())
    check_sample(reader, [])
    check_sample(reader, [len(REFS) - 1, 0, 0])
    reader.close()


def test_every_sample(packed: Path) -> None:
    reader = open_reader(packed)
    check_sample(reader, list(range(len(REFS))))
    reader.close()


@pytest.mark.parametrize("kept", [0, 1, 10**6])
def test_the_indexes_of_shards_in_use_stay(packed: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """However large they are: each is read once while requests go through all of them in turn."""
    monkeypatch.setattr("ivr_dist.data.reading.segment_reader._MAX_OPEN_SAMPLES", kept)
    reader = open_reader(packed)
    opened: list[str] = []
    read_file = reader.fetcher.read_file
    monkeypatch.setattr(
        reader.fetcher, "read_file", lambda url, *rest, **named: opened.append(url) or read_file(url, *rest, **named)
    )
    ends = np.cumsum(reader.manifest.shard_samples)
    for back in range(1, 6):
        assert len(next(iter(reader.read_ahead([ends - back]))).all_or_raise()) == len(ends)
    assert sorted(opened) == sorted(set(opened)) and len(opened) == len(ends)
    reader.close()


def test_shards_out_of_use_are_closed(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ivr_dist.data.reading.segment_reader._MAX_OPEN_SAMPLES", 1)
    reader = open_reader(packed)
    for number in range(reader.manifest.samples):
        reader.read(np.array([number]))
    assert len(reader._shards._open) == 2
    assert reader._shards._samples == sum(len(shard.keys) for shard in reader._shards._open.values())
    reader.close()


def test_many_threads_open_the_same_shards(packed: Path) -> None:
    for _ in range(20):
        reader = open_reader(packed)
        numbers = np.arange(0, reader.manifest.samples, 7)
        with ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(lambda _, reader=reader, numbers=numbers: reader.lengths(numbers, ["text"]), range(8))
            )
        assert all(np.array_equal(found[0], each) for each in found)
        reader.close()


def test_several_threads_share_a_reader(packed: Path) -> None:
    reader = open_reader(packed, 1 << 21)
    with ThreadPoolExecutor(4) as pool:
        orders = [np.random.default_rng(seed).permutation(len(REFS))[:60].tolist() for seed in range(8)]
        list(pool.map(lambda numbers: check_sample(reader, numbers), orders))
    reader.close()


def fetched(reader: ShardReader) -> list[str]:
    """Notes the samples of each segment that is read from now on."""
    found: list[str] = []
    submit = reader.fetcher.submit

    def noting(url: str, start: int, end: int, *, xxh3: int, what: str) -> Future[bytes]:
        found.append(what)
        return submit(url, start, end, xxh3=xxh3, what=what)

    reader.fetcher.submit = noting  # type: ignore[method-assign]
    return found


def test_segments_in_memory_are_not_read_again(packed: Path) -> None:
    keeping, forgetting = open_reader(packed), open_reader(packed, 0)
    for reader in (keeping, forgetting):
        reader.read(np.arange(len(REFS)))
    again, once = fetched(forgetting), fetched(keeping)
    for reader in (keeping, forgetting):
        check_sample(reader, list(range(len(REFS))))
    assert not once
    assert len(again) > 3 and len(again) == len(set(again))


def test_the_cache_keeps_to_its_limit_and_drops_what_was_used_longest_ago(packed: Path) -> None:
    reader = open_reader(packed, 1 << 21)
    first, last = 0, len(REFS) - 1
    for number in [first, last, len(REFS) // 2, first]:
        reader.read(np.array([number]))
        assert reader._segments.resident <= 1 << 21
    noted = fetched(reader)
    reader.read(np.array([first]))
    assert not noted
    reader.read(np.array([last]))
    assert len(noted) == 1


@pytest.mark.parametrize("cache_bytes", [0, 1 << 21, EVERYTHING])
def test_results_come_in_order_and_release_their_segments(packed: Path, cache_bytes: int) -> None:
    reader = open_reader(packed, cache_bytes)
    random = np.random.default_rng(1)
    requests = [random.integers(0, len(REFS), count) for count in (3, 0, 40, 1, 40)]
    for numbers, found in zip(requests, reader.read_ahead(iter(requests)), strict=True):
        assert found.all_or_raise().ids == [REFS[number].id for number in numbers]
    assert not reader._segments._pinned
    answers = reader.read_ahead(iter(requests))
    next(answers)
    answers.close()
    assert not reader._segments._pinned
    assert reader._segments.resident <= cache_bytes


def test_requests_are_prefetched(packed: Path) -> None:
    reader = open_reader(packed)
    noted = fetched(reader)
    index = load(str(packed / Manifest.load(str(packed)).shards[0].index.name))
    answers = reader.read_ahead(np.array([number]) for number in range(len(REFS)))
    # All of the first segment's samples but one.
    for _ in range(int(index.segment[1]) - 1):
        next(answers)
    assert len(noted) >= 2


def test_segments_are_under_way_before_all_indexes_are_there(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_reader(packed)
    ends = np.cumsum(reader.manifest.shard_samples)
    reads = reader._shards._read
    begun = threading.Event()

    def late(number: int) -> OpenShard:
        # The last index arrives after the first segment was requested.
        assert number != len(ends) - 1 or begun.wait(20)
        return reads(number)

    submit = reader.fetcher.submit
    monkeypatch.setattr(reader._shards, "_read", late)
    monkeypatch.setattr(reader.fetcher, "submit", lambda *some, **named: begun.set() or submit(*some, **named))
    assert len(reader.read(ends - 1)) == len(ends)
    reader.close()


def test_an_unreadable_sample_is_a_failure_in_the_result(damaged: Path) -> None:
    shard = Manifest.load(str(damaged)).shards[0]
    index = load(str(damaged / shard.index.name))
    flip(damaged / shard.name, 10)
    bad = int(index.segment[1])
    (found,) = open_reader(damaged).read_ahead([np.array([0, bad, bad - 1])])
    assert found.samples.keys == [index.keys[bad]]
    assert {place: each.name for place, each in found.failures.items()} == {0: index.keys[0], 2: index.keys[bad - 1]}
    assert all(isinstance(each.error, CorruptDataError) for each in found.failures.values())
    with pytest.raises(CorruptDataError, match="do not match"):
        found.all_or_raise()


def test_shards_laid_out_by_pack_and_by_others_in_one_request(damaged: Path) -> None:
    """One sample of the second shard, and all of the third, have their members in another order."""
    shards = Manifest.load(str(damaged)).shards
    for number, changed in ((1, 1), (2, shards[2].samples)):

        def turned(content: Members, changed: int = changed) -> Members:
            samples: dict[str, Members] = {}
            for member in content:
                samples.setdefault(member[0].partition(".")[0], []).append(member)
            parts = [part[::-1] if place < changed else part for place, part in enumerate(samples.values())]
            return [member for part in parts for member in part]

        change_members(damaged, turned, number)
    reader = open_reader(damaged)
    random = np.random.default_rng(0)
    for _ in range(3):
        check_sample(reader, random.permutation(len(REFS)).tolist())
    assert [shard.is_as_packed for shard in reader._shards.get([0, 1, 2])] == [True, False, False]
    reader.close()


def test_an_array_of_another_kind_is_an_error_in_place_of_its_sample(damaged: Path) -> None:
    shard = Manifest.load(str(damaged)).shards[0]
    change_array(damaged, "audio", lambda array: np.zeros((4, 5), np.float32))
    (found,) = open_reader(damaged).read_ahead([np.arange(shard.samples)])
    assert len(found.samples) == shard.samples - 1
    (lost,) = found.failures.values()
    assert isinstance(lost.error, CorruptDataError)
    assert "audio is float32 [4, 5], the manifest says numbers [steps, 74]" in lost.error.what
    assert lost.error.where == f"{shard.name}, sample {lost.name}"


@pytest.mark.parametrize("part", [0, 300, 700])
def test_a_flipped_byte_is_found_and_named(damaged: Path, part: int) -> None:
    shard = Manifest.load(str(damaged)).shards[1]
    index = load(str(damaged / shard.index.name))
    first = int(index.segment[1])
    flip(damaged / shard.name, int(index.offset[first]) + part)
    reader = open_reader(damaged)
    number = Manifest.load(str(damaged)).shards[0].samples + first
    error = failure(reader, [number])
    assert isinstance(error, CorruptDataError)
    assert error.exit_code == 1
    assert f"samples {index.keys[first]} to {index.keys[-1]}: bytes" in error.what
    assert "do not match their checksum" in error.what
    assert error.where.endswith(shard.name)
    assert error.remedy.startswith("copy the file again")
    check_sample(reader, [number - 1])  # the segment before is sound


def test_a_truncated_shard(damaged: Path) -> None:
    shard = Manifest.load(str(damaged)).shards[0]
    content = (damaged / shard.name).read_bytes()
    (damaged / shard.name).write_bytes(content[: len(content) - 4096])
    reader = open_reader(damaged)
    error = failure(reader, [shard.samples - 1])
    assert isinstance(error, CorruptDataError)
    assert "file ends early" in error.what
    assert load(str(damaged / shard.index.name)).keys[-1] in error.what
    assert error.where.endswith(shard.name)
    check_sample(reader, [0])


@pytest.mark.parametrize("kind", ["shard", "index"])
def test_a_missing_file(damaged: Path, kind: str) -> None:
    shard = Manifest.load(str(damaged)).shards[2]
    name = shard.name if kind == "shard" else shard.index.name
    (damaged / name).unlink()
    error = failure(open_reader(damaged), [len(REFS) - 1, 0])
    assert isinstance(error, DataError)
    assert error.exit_code == 2
    assert error.what == f"{kind} file is missing"
    assert error.where.endswith(name)


def test_a_damaged_or_exchanged_index(damaged: Path) -> None:
    first, second = (damaged / shard.index.name for shard in Manifest.load(str(damaged)).shards[:2])
    flip(second, 50)
    assert "does not match the manifest's checksum" in failure(open_reader(damaged), [len(REFS) // 2]).what
    shutil.copy(first, second)
    error = failure(open_reader(damaged), [len(REFS) // 2])
    assert error.where.endswith(second.name)


def test_after_an_error_the_reader_still_reads(damaged: Path) -> None:
    shard = Manifest.load(str(damaged)).shards[0]
    content = (damaged / shard.name).read_bytes()
    flip(damaged / shard.name, 1000)
    reader = open_reader(damaged)
    failure(reader, [0])
    (damaged / shard.name).write_bytes(content)
    check_sample(reader, [0])


def test_closing_twice(packed: Path) -> None:
    reader = open_reader(packed)
    reader.close()
    reader.close()
