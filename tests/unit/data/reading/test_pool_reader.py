"""Random access to the samples of several corpora in one request: every sample is that of its own split."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.reading.pool_reader import PoolReader, PoolResult
from ivr_dist.data.reading.segment_reader import PinnedRequest
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import CorruptDataError
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.decode import RawSample
from ivr_dist.shards.manifest import Manifest
from tests.packed import Members, change_members

WIDE = {"text": 300, "audio": 74}
SOURCES = {
    # Two corpora of one layout, and one of another.
    2: SynthSource(150, 1, dims=WIDE, name="talks"),
    0: SynthSource(90, 2, dims=WIDE, name="calls"),
    5: SynthSource(60, 3, dims={"audio": 12, "vision": 6}, name="clips", task="mood"),
}
"""By number of the corpus, neither ascending nor without gaps."""
EVERYTHING = 1 << 40


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of each corpus, of several shards; not to be changed."""
    place = tmp_path_factory.mktemp("packed")
    for number, source in SOURCES.items():
        pack(source, str(place / str(number)), PackOptions(shard_bytes=1 << 18, seed=number))
    return place


@pytest.fixture(scope="module")
def stored(packed: Path) -> dict[int, list[RawSample]]:
    """By number of the corpus: all its samples, read without a pool."""
    found = {}
    for number, (url, manifest) in splits_of(packed).items():
        reader = ShardReader(url, manifest)
        found[number] = list(reader.read(np.arange(manifest.samples)))
        reader.close()
    return found


@pytest.fixture
def reader(packed: Path) -> Iterator[PoolReader]:
    opened = PoolReader(splits_of(packed), EVERYTHING)
    yield opened
    opened.close()


def splits_of(packed: Path) -> dict[int, tuple[str, Manifest]]:
    urls = {number: str(packed / str(number) / "train") for number in SOURCES}
    return {number: (url, Manifest.load(url)) for number, url in urls.items()}


def random_request(stored: dict[int, list[RawSample]], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    corpus = random.choice(list(SOURCES), count)
    return corpus, np.array([random.integers(len(stored[number])) for number in corpus.tolist()], np.int64)


def check_result(
    result: PoolResult, corpus: np.ndarray, numbers: np.ndarray, stored: dict[int, list[RawSample]]
) -> None:
    """Every sample that was read is the one that is stored."""
    assert len(result.part) == len(result.rows) == len(numbers)
    for place in np.flatnonzero(result.rows >= 0).tolist():
        found = result.parts[result.part[place]][int(result.rows[place])]
        expected = stored[int(corpus[place])][int(numbers[place])]
        assert (found.id, found.labels, found.transcript) == (expected.id, expected.labels, expected.transcript)
        assert found.arrays.keys() == expected.arrays.keys()
        for name, array in expected.arrays.items():
            np.testing.assert_array_equal(found.arrays[name], array)


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_every_sample_of_a_request_is_that_of_its_corpus(
    packed: Path, stored: dict[int, list[RawSample]], counts: list[int], seed: int
) -> None:
    requests = [random_request(stored, count, seed + nth) for nth, count in enumerate(counts)]
    reader = PoolReader(splits_of(packed), 1 << 20)
    for (corpus, numbers), result in zip(requests, reader.read_ahead(iter(requests)), strict=True):
        assert not result.failures
        check_result(result, corpus, numbers, stored)
    reader.close()


def test_corpora_of_one_layout_are_decoded_together(reader: PoolReader) -> None:
    corpus = np.array([2, 0, 2, 0, 0])
    (result,) = reader.read_ahead([(corpus, np.arange(5))])
    assert len(result.parts) == 1
    (result,) = reader.read_ahead([(np.append(corpus, [5, 5]), np.arange(7))])
    assert sorted(len(part) for part in result.parts) == [2, 5]


def test_requests_of_several_layouts_are_decoded_together(
    packed: Path, stored: dict[int, list[RawSample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as have their segments pinned, beginning with one; each has its own result."""
    sizes = []
    decoded = PoolReader._result

    def counted(self: PoolReader, request: PinnedRequest) -> PoolResult:
        sizes.append(len(request))
        return decoded(self, request)

    monkeypatch.setattr(PoolReader, "_result", counted)
    requests = [random_request(stored, 3, seed) for seed in range(40)]
    reader = PoolReader(splits_of(packed), EVERYTHING)
    for (corpus, numbers), result in zip(requests, reader.read_ahead(iter(requests)), strict=True):
        assert not result.failures
        check_result(result, corpus, numbers, stored)
    assert sum(sizes) == 120 and sizes[0] == 3 and max(sizes) == 8 * 3
    assert not reader._segments._pinned
    reader.close()


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_memory_is_that_of_the_cache_and_of_one_request(
    packed: Path, stored: dict[int, list[RawSample]], limit: int
) -> None:
    """The limit holds for all corpora together, not for each."""
    splits = splits_of(packed)
    shards = [shard for _, manifest in splits.values() for shard in manifest.shards]
    most = limit + 2 * max(shard.bytes for shard in shards)
    assert sum(shard.bytes for shard in shards) > 1.5 * most
    reader = PoolReader(splits, limit)
    requests = [random_request(stored, 2, seed) for seed in range(100)]
    for _ in reader.read_ahead(iter(requests)):
        assert reader.resident <= most
    reader.close()


def test_lengths_count_the_modalities_of_each_corpus(reader: PoolReader, stored: dict[int, list[RawSample]]) -> None:
    modalities = {2: ["audio"], 0: ["text", "audio"], 5: ["vision"]}
    corpus, numbers = random_request(stored, 50, 4)
    expected = [
        max(len(stored[own][number].arrays.get(name, ())) for name in modalities[own])
        for own, number in zip(corpus.tolist(), numbers.tolist(), strict=True)
    ]
    assert reader.lengths(corpus, numbers, modalities).tolist() == expected


def test_names_are_those_of_each_corpus(reader: PoolReader, stored: dict[int, list[RawSample]]) -> None:
    corpus, numbers = random_request(stored, 20, 5)
    expected = [stored[own][number].id for own, number in zip(corpus.tolist(), numbers.tolist(), strict=True)]
    assert reader.names(corpus, numbers) == expected


def test_a_damaged_sample_fails_in_its_place_and_no_other(
    packed: Path, stored: dict[int, list[RawSample]], tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(packed, tmp_path / "pool"))
    url, manifest = splits_of(damaged)[0]
    shard = Path(url) / manifest.shards[0].name
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    reader = PoolReader(splits_of(damaged), EVERYTHING)
    corpus = np.array([5, 0, 2, 0, 0, 2])
    numbers = np.array([3, 0, 0, manifest.samples - 1, 1, 7])
    # Other requests, with which it may be decoded, are not affected.
    whole = np.array([5, 2, 5]), np.array([1, 2, 3])
    first, result, last = reader.read_ahead([whole, (corpus, numbers), whole])
    for each in (first, last):
        assert not each.failures
        check_result(each, *whole, stored)
    assert 1 in result.failures
    assert set(result.failures) <= {1, 4}
    assert result.failures[1].name == stored[0][0].id
    assert isinstance(result.failures[1].error, CorruptDataError)
    assert [place for place, row in enumerate(result.rows.tolist()) if row < 0] == sorted(result.failures)
    check_result(result, corpus, numbers, stored)
    reader.close()


def test_a_corpus_that_pack_did_not_write_is_decoded_by_itself(
    packed: Path, stored: dict[int, list[RawSample]], tmp_path: Path
) -> None:
    """The members of each sample of one corpus are in another order."""
    foreign = Path(shutil.copytree(packed, tmp_path / "pool"))

    def turned(content: Members) -> Members:
        samples: dict[str, Members] = {}
        for member in content:
            samples.setdefault(member[0].partition(".")[0], []).append(member)
        return [member for part in samples.values() for member in part[::-1]]

    for number in range(len(splits_of(packed)[0][1].shards)):
        change_members(foreign / "0" / "train", turned, number)
    reader = PoolReader(splits_of(foreign), EVERYTHING)
    requests = [random_request(stored, 30, seed) for seed in range(6)]
    for (corpus, numbers), result in zip(requests, reader.read_ahead(iter(requests)), strict=True):
        assert not result.failures
        check_result(result, corpus, numbers, stored)
    # Once that is known, the other corpus of this layout is still decoded as a batch.
    counts = np.unique(result.part, return_counts=True)[1]
    assert sorted(counts.tolist()) == sorted(int((corpus == own).sum()) for own in SOURCES)
    reader.close()
