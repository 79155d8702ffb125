"""The file of sample hashes: lookups match a simple model, damage is found, and few bytes are read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards import sample_hashes
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_hashes import HASHES_NAME, KINDS, HashRows, HashTable, hashes_of, name_hash
from ivr_dist.shards.split_hashes import compute_hashes, open_hashes

HASH = st.integers(0, 6) | st.integers(0, 2**64 - 1)
ROWS = st.lists(st.tuples(HASH, HASH, HASH), max_size=40)


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> object:
    """Blocks of 4 rows, so that a few rows make many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_hashes, "BLOCK_ROWS", 4)
        yield


@given(ROWS, st.lists(HASH, max_size=10))
def test_lookups_match_a_simple_model(rows: list[tuple[int, int, int]], asked: list[int]) -> None:
    table = HashRows.of(np.array(rows, np.uint64).reshape(-1, 3)).table()
    probes = np.unique(np.array([hash_ for hash_ in asked if hash_], np.uint64))
    for column, kind in enumerate(KINDS):
        present = sorted((row[column], number) for number, row in enumerate(rows) if row[column])
        assert table.count(kind) == len(present)
        assert [tuple(row) for part in table.rows(kind) for row in part.tolist()] == present
        hashes, numbers = table.find(kind, probes)
        expected = [(hash_, number) for hash_, number in present if hash_ in set(probes.tolist())]
        assert list(zip(hashes.tolist(), numbers.tolist(), strict=True)) == expected


@pytest.mark.parametrize("whole", [True, False])
def test_the_file_is_what_is_in_memory(tmp_path: Path, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_hashes, "_READ_WHOLE", 1 << 20 if whole else 0)
    hashes = np.random.default_rng(0).integers(0, 2**63, (30, 3)).astype(np.uint64)
    hashes[5:9, 1] = 0
    rows = HashRows.of(hashes)
    rows.save(str(tmp_path))
    assert storage.size(str(tmp_path / HASHES_NAME)) == rows.entry.bytes
    table = HashTable.open(str(tmp_path), rows.entry)
    assert [table.count(kind) for kind in KINDS] == [30, 26, 30]
    found, numbers = table.find("text", np.sort(hashes[[3, 17], 2]))
    assert sorted(numbers.tolist()) == [3, 17] and sorted(found.tolist()) == sorted(hashes[[3, 17], 2].tolist())


@pytest.mark.parametrize("whole", [True, False])
def test_damage_is_found(tmp_path: Path, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_hashes, "_READ_WHOLE", 1 << 20 if whole else 0)
    hashes = np.arange(1, 61, dtype=np.uint64).reshape(20, 3)
    rows = HashRows.of(hashes)
    rows.save(str(tmp_path))
    path = tmp_path / HASHES_NAME
    sound = path.read_bytes()

    def read_all() -> None:
        table = HashTable.open(str(tmp_path), rows.entry)
        for kind in KINDS:
            list(table.rows(kind))

    read_all()
    for position in (0, 70, 130, 300, rows.entry.directory_bytes - 3, rows.entry.directory_bytes, len(sound) - 1):
        damaged = bytearray(sound)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(CorruptDataError, match=r"hashes .*manifest\.hashes\); copy the split again"):
            read_all()
    path.unlink()
    with pytest.raises(DataError, match=r"the hashes of samples that the manifest names are missing \(.*; copy the"):
        HashTable.open(str(tmp_path), rows.entry)
    path.write_bytes(sound)
    with pytest.raises(CorruptDataError, match="the hashes have version 2, this program reads 1"):
        HashTable.open(str(tmp_path), replace(rows.entry, version=2))


def test_what_is_hashed() -> None:
    about = {"transcript": "so good, so very good", "provenance": {"group": "v1"}}
    id_, group, text = hashes_of(about, "v1[3]", "mosi")
    assert len({id_, group, text, 0}) == 4
    assert hashes_of({"transcript": ["So", "good", "so", "very", "GOOD"]}, "v1[3]", "mosei") == (id_, group, text)
    assert hashes_of({"transcript": "Okay."}, "x", "mosi")[1:] == (0, 0)
    assert hashes_of({"transcript": 3}, "x", "mosi")[1:] == (0, 0)
    assert name_hash("v1", "mosi") == name_hash("v1", "mosei"), "a name is the same in any corpus"
    assert name_hash("17", "mosi") != name_hash("17", "mosei"), "a number is not"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packed")
    pack(SynthSource(90), str(place), PackOptions(shard_samples=7))
    return place


def test_pack_writes_what_is_in_the_shards(packed: Path) -> None:
    for split in ("train", "valid", "test"):
        manifest = Manifest.load(str(packed / split))
        computed = HashRows.of(compute_hashes(str(packed / split), manifest))
        assert manifest.hashes == computed.entry
        assert (packed / split / HASHES_NAME).read_bytes() == computed.directory + b"".join(
            part.tobytes() for part in computed.rows
        )


def test_a_split_without_the_file_is_read(packed: Path) -> None:
    url = str(packed / "train")
    manifest = Manifest.load(url)
    seen: list[tuple[int, int]] = []
    table = open_hashes(url, replace(manifest, hashes=None), lambda done, total: seen.append((done, total)))
    for kind in KINDS:
        assert np.array_equal(np.concatenate(list(table.rows(kind))), all_rows(open_hashes(url, manifest), kind))
    assert seen == [(min(7 * (n + 1), manifest.samples), manifest.samples) for n in range(len(manifest.shards))]


def all_rows(table: HashTable, kind: sample_hashes.Kind) -> Sequence[object]:
    return np.concatenate(list(table.rows(kind)))


def test_a_lookup_in_a_million_samples_reads_a_few_blocks(tmp_path: Path) -> None:
    """A lookup of some thousands reads their blocks only and takes moments; the file is not loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_hashes, "BLOCK_ROWS", 1 << 14)
        hashes = np.random.default_rng(0).integers(1, 2**63, (1_000_000, 3)).astype(np.uint64)
        rows = HashRows.of(hashes)
        rows.save(str(tmp_path))
        table = HashTable.open(str(tmp_path), rows.entry)
        start = time.perf_counter()
        _, numbers = table.find("text", np.unique(hashes[::300, 2]))
        assert sorted(numbers.tolist()) == list(range(0, 1_000_000, 300))
        assert time.perf_counter() - start < 5
