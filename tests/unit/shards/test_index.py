"""Shard indexes: offsets, segments and checksums are right; equal bytes everywhere; hostile files are refused."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.errors import CorruptDataError
from ivr_dist.shards import index as index_module
from ivr_dist.shards import tar
from ivr_dist.shards.index import SEGMENT_BYTES, ShardIndex, build_index, load
from ivr_dist.shards.sample_ids import is_key_of, tar_key
from tests.packed import tar_of

COLUMNS = ("keys", "offset", "size", "lengths", "segment", "xxh3")


def npy(array: np.ndarray[Any, Any], allow_pickle: bool = False) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=allow_pickle)
    return out.getvalue()


def sample(key: str, **steps: int) -> list[tuple[str, bytes]]:
    arrays = [(f"{key}.{name}.npy", npy(np.zeros((count, 4), np.float32))) for name, count in steps.items()]
    return [(f"{key}.json", b"{}"), *arrays]


SMALL = tar_of([*sample("a", text=3, vision=1), *sample("b"), *sample("c", audio=0, text=7)])


def large(count: int = 9, size: int = 300_000) -> bytes:
    """A shard of several segments."""
    random = np.random.default_rng(0)
    return tar_of([(f"k{number}.json", random.bytes(size)) for number in range(count)])


def equal(one: ShardIndex, other: ShardIndex) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in COLUMNS[1:])
    return arrays and one.keys == other.keys


def archive(columns: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, content in columns.items():
            file.writestr(f"{name}.npy", content)
    return out.getvalue()


def columns(**changed: Any) -> dict[str, bytes]:
    """The columns of SMALL's index, with some in another form."""
    index = build_index(SMALL)
    arrays = {name: getattr(index, name) for name in COLUMNS[1:]}
    arrays["keys"] = np.array([key.encode() for key in index.keys])
    return {name: npy(np.asarray(array)) for name, array in {**arrays, **changed}.items()}


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptDataError) as caught:
        ShardIndex.from_bytes(data, "s.idx")
    assert "s.idx" in caught.value.where
    assert "ivr-dist index" in caught.value.remedy or "pack" in caught.value.remedy
    return str(caught.value)


def test_keys_places_and_lengths() -> None:
    index = build_index(SMALL)
    assert index.keys == ["a", "b", "c"]
    assert index.lengths.tolist() == [[3, -1, 1], [-1, -1, -1], [7, 0, -1]]
    assert index.offset[0] == 0
    assert (index.offset + index.size)[-1] == len(SMALL) - 1024
    for key, start, size in zip(index.keys, index.offset, index.size, strict=True):
        groups = list(tar.samples(SMALL[start : start + size], "s"))
        assert [group[0].key for group in groups] == [key]


def test_tokens_have_lengths_too() -> None:
    data = tar_of([("a.text.npy", npy(np.zeros(5, np.int32))), ("a.audio.npy", npy(np.array(1.0)))])
    assert build_index(data).lengths.tolist() == [[5, 1, -1]]


def test_segments_are_of_about_a_mebibyte_and_cover_all_samples() -> None:
    data = large()
    index = build_index(data)
    ends = index.offset + index.size
    first, last = index.segment[:-1], index.segment[1:] - 1
    assert index.segment[0] == 0
    assert index.segment[-1] == len(index.keys) == 9
    assert len(index.xxh3) == 3
    spans = ends[last] - index.offset[first]
    assert (spans <= SEGMENT_BYTES).all()
    # None could have taken the next one's first sample as well.
    assert (ends[first[1:]] - index.offset[first[:-1]] > SEGMENT_BYTES).all()


def test_a_sample_larger_than_a_segment_is_a_segment() -> None:
    data = tar_of([("a.json", b"1"), ("b.json", bytes(3 << 20)), ("c.json", b"3"), ("d.json", b"4")])
    assert build_index(data).segment.tolist() == [0, 1, 2, 4]


def test_gaps_between_samples_do_not_make_segments_long() -> None:
    data = tar_of([("a.json", b"1"), ("README", bytes(3 << 20)), ("b.json", b"2"), ("c.json", b"3")])
    index = build_index(data)
    assert index.keys == ["a", "b", "c"]
    assert index.segment.tolist() == [0, 1, 3]


def test_checksums_are_xxh3_of_the_bytes_of_each_segment() -> None:
    data = large()
    index = build_index(data)
    for number, expected in enumerate(index.xxh3):
        start = index.offset[index.segment[number]]
        last = index.segment[number + 1] - 1
        assert xxhash.xxh3_64_intdigest(data[start : index.offset[last] + index.size[last]]) == int(expected)


@pytest.mark.parametrize("data", [SMALL, large(), tar_of([])], ids=["small", "large", "empty"])
@pytest.mark.parametrize("chunk", [512, 700_000])
def test_a_stream_has_the_same_index(data: bytes, chunk: int) -> None:
    stream = tar.Stream(lambda start, end: data[start:end], len(data), "s.tar", chunk, most=3 << 20)
    shown: list[tuple[str, bytes]] = []

    def look(key: str, content: memoryview) -> str:
        shown.append((key, bytes(content)))
        return key

    index = build_index(stream, "s.tar", look)
    assert equal(index, build_index(data))
    ends = index.offset + index.size
    assert shown == [(key, data[a:b]) for key, a, b in zip(index.keys, index.offset, ends, strict=True)]


@pytest.mark.parametrize("data", [SMALL, large(), tar_of([])], ids=["small", "large", "empty"])
def test_round_trip(data: bytes, tmp_path: Path) -> None:
    index = build_index(data)
    (tmp_path / "s.idx").write_bytes(index.to_bytes())
    assert equal(load(str(tmp_path / "s.idx")), index)


IDS = st.lists(st.text(st.characters(), max_size=100), min_size=3, max_size=3).filter(lambda ids: ids[0] != "a")
"""Any text, half surrogate pairs and zero bytes included."""


@given(IDS)
def test_ids_come_back_where_keys_do_not_tell_them(ids: list[str]) -> None:
    by_key = dict(zip("abc", ids, strict=True))
    index = build_index(SMALL, on_sample=lambda key, content: by_key[key])
    assert index.names == ids
    again = ShardIndex.from_bytes(index.to_bytes(), "s.idx")
    assert equal(again, index) and again.ids == ids


def test_an_index_whose_keys_tell_the_ids_is_as_it_was_before_there_were_ids_in_it() -> None:
    with zipfile.ZipFile(io.BytesIO(build_index(SMALL).to_bytes())) as archive:
        assert [name.removesuffix(".npy") for name in archive.namelist()] == list(COLUMNS)


@given(st.text(st.characters(), min_size=1))
def test_a_key_that_pack_made_tells_the_id(id_: str) -> None:
    assert is_key_of(tar_key(id_), id_)
    assert is_key_of(id_, id_)
    assert not is_key_of("another", id_) or id_ == "another"


@given(IDS, st.data())
def test_damaged_ids_are_refused_or_texts(ids: list[str], data: st.DataObject) -> None:
    by_key = dict(zip("abc", ids, strict=True))
    content = build_index(SMALL, on_sample=lambda key, _: by_key[key]).to_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        arrays = {name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name))) for name in archive.namelist()}
    ends = arrays["id_ends"].copy()
    ends[data.draw(st.integers(0, 2))] = data.draw(st.integers(-(2**63), 2**63 - 1))
    out = io.BytesIO()
    np.savez(out, **{**arrays, "id_ends": ends})
    try:
        found = ShardIndex.from_bytes(out.getvalue(), "s.idx").ids
    except CorruptDataError:
        return
    assert found is not None and all(isinstance(id_, str) for id_ in found)


@given(st.lists(st.text("abc\u00e9\u4e2d_-", min_size=1, max_size=30), unique=True, max_size=8))
def test_keys_of_any_length_and_language_come_back(keys: list[str]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for key in keys:
            file.addfile(tarfile.TarInfo(f"{key}.json"))
    kept = [key for key in keys if not (key.startswith("__") and key.endswith("__"))]
    index = build_index(out.getvalue())
    assert index.keys == kept
    assert equal(ShardIndex.from_bytes(index.to_bytes(), "s.idx"), index)


def test_bytes_are_deterministic_and_numpy_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_index(SMALL).to_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert build_index(SMALL).to_bytes() == first
    # A changed digest means that packing no longer gives the bytes that earlier versions gave.
    assert xxhash.xxh3_64_hexdigest(first) == "07203e9d330aa855"
    with np.load(io.BytesIO(first), allow_pickle=False) as file:
        assert tuple(file) == COLUMNS
        assert [str(file[name].dtype) for name in COLUMNS] == ["|S1", "int64", "int64", "int32", "int64", "uint64"]


def test_tars_that_are_no_shards_are_refused() -> None:
    with pytest.raises(CorruptDataError, match="sample a is in the tar twice"):
        build_index(tar_of([*sample("a"), *sample("b"), *sample("a")]))
    with pytest.raises(CorruptDataError, match="no end mark"):
        build_index(SMALL[:-1024])
    with pytest.raises(CorruptDataError, match=r"not a \.npy file \(t\.tar, a\.text\.npy\)"):
        build_index(tar_of([("a.text.npy", b"not an array")]), "t.tar")
    pickled = npy(np.array([{}]), allow_pickle=True)
    with pytest.raises(CorruptDataError, match="only plain numbers"):
        build_index(tar_of([("a.text.npy", pickled)]))


def test_many_samples_are_indexed_in_linear_time_also_when_one_is_there_twice() -> None:
    files = [(f"k{number}.json", b"") for number in range(50_000)]
    assert len(build_index(tar_of(files)).keys) == 50_000
    with pytest.raises(CorruptDataError, match="k49999"):
        build_index(tar_of([*files, files[0], files[-1]][::-1]))


def test_a_sound_index_made_by_numpy_is_read() -> None:
    assert equal(ShardIndex.from_bytes(archive(columns()), "s.idx"), build_index(SMALL))


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"offset": np.array([0, 1], np.int64)}, "offset has the shape"),
        ({"offset": np.array([-512, 4096, 8192], np.int64)}, "not in order"),
        ({"offset": np.array([0, 8192, 4096], np.int64)}, "not in order"),
        ({"offset": np.array([0, 2**62, 2**63 - 1], np.int64)}, "not in order"),
        ({"size": np.array([512, 2**63 - 1, 512], np.int64)}, "not in order"),
        ({"size": np.array([512, 0, 512], np.int64)}, "not in order"),
        ({"size": np.array([512, -512, 512], np.int64)}, "not in order"),
        ({"size": np.ones((3, 1), np.int64)}, "size has the shape"),
        ({"size": np.int64(3)}, "size has the shape"),
        ({"lengths": np.full((3, 3), -2, np.int32)}, "negative lengths"),
        ({"lengths": np.zeros((3, 4), np.int32)}, "lengths has the shape"),
        ({"lengths": np.zeros((3, 3), np.int64)}, "lengths is of int64"),
        ({"segment": np.array([0, 2], np.int64)}, "not in order"),
        ({"segment": np.array([1, 3], np.int64)}, "not in order"),
        ({"segment": np.array([0, 4], np.int64)}, "not in order"),
        ({"segment": np.array([0, 0, 3], np.int64), "xxh3": np.zeros(2, np.uint64)}, "not in order"),
        ({"segment": np.array([], np.int64)}, "segment has the shape"),
        ({"xxh3": np.uint64(3)}, "xxh3 has the shape"),
        ({"xxh3": np.zeros(1, np.float64)}, "xxh3 is of float64"),
        ({"keys": np.bytes_(b"abc")}, "not a list"),
        ({"keys": np.array([[b"a", b"b", b"c"]])}, "not a list"),
        ({"keys": np.array(["a", "b", "c"])}, "only bytes"),
        ({"keys": np.zeros(3)}, "only bytes"),
        ({"offset": np.array([np.nan, 1, 2])}, "offset is of float64"),
    ],
)
def test_columns_that_lie_are_refused(changed: dict[str, Any], message: str) -> None:
    assert message in refusal(archive(columns(**changed)))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_that_is_not_there_is_named(name: str) -> None:
    assert name in refusal(archive({key: value for key, value in columns().items() if key != name}))


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_would_have_to_be_unpacked_is_refused(kind: int) -> None:
    bomb = {**columns(), "keys": npy(np.zeros(1 << 24, "S1"))}
    data = archive(bomb, kind)
    assert len(data) < 1 << 20
    tracemalloc.start()
    try:
        assert "compressed" in refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_pickles_and_absurd_shapes_are_refused() -> None:
    assert "only bytes" in refusal(archive({**columns(), "keys": npy(np.array([{}]), allow_pickle=True)}))
    sound = columns()["keys"]
    for count, message in ((b"2000000000", "takes 2000000000 bytes, but has 3"), (b"9999999999", "elements")):
        huge = sound.replace(b"(3,), }" + b" " * 9, b"(" + count + b",), }")
        assert huge != sound
        assert message in refusal(archive({**columns(), "keys": huge}))


@pytest.mark.parametrize("data", [b"", b"PK", b"not an index", SMALL, build_index(SMALL).to_bytes()[:-1]])
def test_other_files_are_refused(data: bytes) -> None:
    refusal(data)


def test_an_index_of_another_segment_size_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "SEGMENT_BYTES", 1)
    index = build_index(SMALL)
    assert index.segment.tolist() == [0, 1, 2, 3]
    assert equal(ShardIndex.from_bytes(index.to_bytes(), "s.idx"), index)
    assert not equal(index, replace(index, keys=["x", "y", "z"]))


VALID = build_index(SMALL).to_bytes()


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_mutated_bytes_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for position, value in changes:
        data[position] = value
    check_harmless(bytes(data))


@settings(max_examples=300)
@given(st.sampled_from(COLUMNS), st.integers(0, 200), st.integers(0, 255))
def test_mutated_columns_are_read_or_refused(name: str, position: int, value: int) -> None:
    """As above, behind zip's checksums."""
    column = bytearray(columns()[name])
    column[position % len(column)] = value
    check_harmless(archive({**columns(), name: bytes(column)}))


@given(st.binary(max_size=500))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    check_harmless(data)
    check_harmless(data + VALID[-200:])


def check_harmless(data: bytes) -> None:
    tracemalloc.start()
    try:
        index = ShardIndex.from_bytes(data, "s.idx")
        assert len(index.keys) == len(index.offset)
    except CorruptDataError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2 << 20


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_mutated_tars_are_indexed_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for position, value in changes:
        data[position] = value
    try:
        index = build_index(bytes(data))
    except CorruptDataError:
        return
    assert equal(ShardIndex.from_bytes(index.to_bytes(), "s.idx"), index)
