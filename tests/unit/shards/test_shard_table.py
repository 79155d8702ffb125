"""Shard tables: the same entries as a list; invalid ones are refused; small and fast for millions of shards."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import CorruptDataError, DataError, IvrError
from ivr_dist.inspection.verify import verify
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards import manifest as manifest_module
from ivr_dist.shards.manifest import MANIFEST_NAME, TABLE_NAME, Manifest
from ivr_dist.shards.shard_table import IndexEntry, ShardColumns, ShardEntry

HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
STEMS = st.text(st.characters(exclude_characters="/\\", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
COUNTS = st.integers(0, 1 << 40)


@st.composite
def entries(draw: st.DrawFn) -> list[ShardEntry]:
    stems = draw(st.lists(STEMS.filter(lambda stem: not stem.startswith(".")), unique=True, max_size=8))
    return [
        ShardEntry(
            name=f"{stem}.tar",
            samples=draw(COUNTS),
            bytes=draw(COUNTS),
            sha256=draw(HASHES),
            index=IndexEntry(name=f"{stem}.idx", bytes=draw(COUNTS), sha256=draw(HASHES)),
        )
        for stem in stems
    ]


@given(entries())
def test_round_trip(found: list[ShardEntry]) -> None:
    columns = ShardColumns.of(found)
    again = ShardColumns.from_bytes(columns.to_bytes(), "x")
    assert list(columns) == list(again) == found
    assert columns == again and again.to_bytes() == columns.to_bytes()
    assert again[1:] == found[1:] and again[::-2] == found[::-2]
    assert columns.samples.tolist() == [entry.samples for entry in found]
    if found:
        assert again[-1] == found[-1]
    with pytest.raises(IndexError):
        again[len(found)]


def entry(name: str) -> ShardEntry:
    index = IndexEntry(name=f"{name.removesuffix('.tar')}.idx", bytes=1, sha256="0" * 64)
    return ShardEntry(name=name, samples=1, bytes=1, sha256="0" * 64, index=index)


@pytest.mark.parametrize("names", [["a.tar", "a.tar"], ["../a.tar"], [".a.tar"], ["a/b.tar"], [".tar"]])
def test_names_that_cannot_be(names: list[str]) -> None:
    with pytest.raises(ValueError, match="name"):
        ShardColumns.of([entry(name) for name in names])


def test_names_that_are_no_text() -> None:
    data = ShardColumns.of([entry("abc.tar"), entry("\u00e9.tar")]).to_bytes()
    assert ShardColumns.from_bytes(data, "x")[1].name == "\u00e9.tar"
    with pytest.raises(CorruptDataError, match="the table of shards cannot be read"):
        ShardColumns.from_bytes(data.replace(b"abc", b"a\xffc"), "x")


def test_other_names_of_indexes_have_no_columns() -> None:
    with pytest.raises(ValueError, match="not named as shards are"):
        ShardColumns.of([entry("a.tgz")])


@given(st.integers(0, 2000), st.integers(0, 255), st.integers(0, 2000))
def test_damage_is_refused_or_harmless(position: int, value: int, length: int) -> None:
    data = bytearray(ShardColumns.of([entry(f"{letter}.tar") for letter in "abc"]).to_bytes())
    data[position % len(data)] = value
    try:
        found = ShardColumns.from_bytes(bytes(data[: length if length % 2 else None]), "x")
        assert len(list(found)) == 3
    except CorruptDataError as error:
        assert "\n" not in str(error)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests of more than 8 shards have a table."""
    monkeypatch.setattr(manifest_module, "_LONGEST_LIST", 8)
    monkeypatch.setattr(manifest_module, "_CHECKED", 4)


@pytest.mark.usefixtures("short")
def test_packing_reading_and_verifying_with_a_table(tmp_path: Path) -> None:
    place = tmp_path / "train"
    pack(SynthSource(100), str(tmp_path), PackOptions(shard_samples=5))
    content = json.loads((place / MANIFEST_NAME).read_text())
    assert content["shards"].keys() == {"table", "bytes", "sha256"}
    manifest = Manifest.load(str(place))
    assert (len(manifest.shards), manifest.samples) == (14, 70)
    assert manifest.shard_samples.tolist() == [5] * 14
    assert not verify([str(place)]).findings
    manifest.check_shards(str(place))
    reader = ShardReader(str(place), manifest, 0)
    assert len({sample.id for sample in reader.read(np.arange(70))}) == 70
    reader.close()
    for shard in manifest.shards:
        (place / shard.name).unlink()
    with pytest.raises(DataError, match=r"and [0-9] more"):
        manifest.check_shards(str(place))
    # Fewer shards are listed again, and nothing is left of the table.
    pack(SynthSource(100), str(tmp_path), PackOptions(shard_samples=20, overwrite=True))
    assert not (place / TABLE_NAME).exists()
    assert not verify([str(place)]).findings


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("damage", ["missing", "changed", "exchanged"])
def test_a_table_that_is_not_the_manifests(tmp_path: Path, damage: str) -> None:
    pack(SynthSource(100), str(tmp_path), PackOptions(shard_samples=5))
    table = tmp_path / "train" / TABLE_NAME
    if damage == "missing":
        table.unlink()
    elif damage == "changed":
        table.write_bytes(table.read_bytes()[:-1] + b"x")
    else:
        table.write_bytes((tmp_path / "valid" / MANIFEST_NAME).read_bytes())
    with pytest.raises(IvrError, match=r"table of shards|no such file") as caught:
        Manifest.load(str(tmp_path / "train"))
    assert TABLE_NAME in caught.value.where


SCALE = """
import sys, time
import numpy as np
from ivr_dist.shards.manifest import Manifest
from ivr_dist.config.lanes import default_delay
from ivr_dist.data.sample_order import EpochOrder, rank_slots

def most():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

base = most()
started = time.perf_counter()
manifest = Manifest.load(sys.argv[1])
loaded = time.perf_counter() - started
started = time.perf_counter()
delay = default_delay(manifest.samples, manifest.total_bytes, 64)
order = EpochOrder(manifest.shard_samples, manifest.id, 0, 3, 64, 4096, delay)
numbers = order.batch(order.steps - 7)
mine = numbers[rank_slots(range(4096), 70, 96).start : rank_slots(range(4096), 70, 96).stop]
shards, places = order.table.locate(mine)
entries = [manifest.shards[int(shard)] for shard in shards]
planned = time.perf_counter() - started
print(manifest.samples, len(manifest.shards), len(entries), loaded, planned, most() - base)
"""


def test_a_billion_samples_in_two_million_shards(tmp_path: Path) -> None:
    """Loaded in seconds, any step planned in two, in half a gigabyte."""
    pack(SynthSource(20), str(tmp_path))
    small = Manifest.load(str(tmp_path / "train"))
    count = 2_000_000
    random = np.random.default_rng(0)
    columns = ShardColumns(
        np.full(count, 500, np.int64),
        np.full(count, 12_800_000, np.int64),
        np.full(count, 30_000, np.int64),
        random.integers(0, 256, (count, 32), np.uint8),
        random.integers(0, 256, (count, 32), np.uint8),
        np.frombuffer("".join(f"corpus-train-{n:06d}.tar\n" for n in range(count)).encode(), np.uint8),
    )
    replace(small, samples=500 * count, shards=columns).save(str(tmp_path / "big"))
    assert storage.size(str(tmp_path / "big" / TABLE_NAME)) < 250e6
    done = subprocess.run(
        [sys.executable, "-c", SCALE, str(tmp_path / "big")], capture_output=True, text=True, check=True
    )
    samples, shards, entries_, loaded, planned, peak = map(float, done.stdout.split())
    assert (samples, shards, entries_) == (1e9, 2e6, 43)
    print(f"loaded in {loaded:.1f} s, planned in {planned:.2f} s, {peak:.0f} MiB")
    assert loaded < 20
    assert planned < 2
    assert peak < 500
