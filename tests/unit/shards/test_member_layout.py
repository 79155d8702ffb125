"""Member layout: computed offsets are those of the members, or are not used."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.shards.batch_decode import decode_batch
from ivr_dist.shards.decode import RawSample, decode_sample
from ivr_dist.shards.index import ShardIndex, build_index
from ivr_dist.shards.member_layout import Layout
from ivr_dist.shards.sample_columns import Samples
from ivr_dist.shards.specs import FeatureSpec
from ivr_dist.shards.tar import TarWriter

Arrays = dict[str, npt.NDArray[np.generic]]
FEATURES = {
    "text": FeatureSpec(set="t", dim=1, dtype="int32", kind="tokens"),
    "audio": FeatureSpec(set="a", dim=3, dtype="float32", kind="features"),
    "vision": FeatureSpec(set="v", dim=3, dtype="float32", kind="features"),
}
LAYOUT = Layout.of(FEATURES)


def members(key: str, arrays: Arrays, note: str) -> list[tuple[str, bytes]]:
    """A sample's members in the order in which `pack` writes them."""
    found = {"json": json.dumps({"id": key, "labels": {"mood": 1.5}, "note": note}).encode()}
    for name, array in arrays.items():
        content = io.BytesIO()
        np.save(content, array)
        found[f"{name}.npy"] = content.getvalue()
    return [(f"{key}.{suffix}", content) for suffix, content in sorted(found.items())]


def tar_of(files: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out)
    for name, content in files:
        writer.add(name, content)
    writer.close()
    return out.getvalue()


def together(data: bytes, index: ShardIndex, numbers: Sequence[int]) -> Samples | None:
    """Samples of a tar of few segments."""
    places = LAYOUT.member_offsets(index)
    starts = index.offset[index.segment[:-1]]
    segments = [memoryview(data)[starts[np.searchsorted(index.segment, number, "right") - 1] :] for number in numbers]
    return decode_batch(
        [index.keys[number] for number in numbers],
        ["s.tar"] * len(numbers),
        segments,
        [places[number] for number in numbers],
        LAYOUT,
    )


def quickly(data: bytes, index: ShardIndex, number: int) -> RawSample | None:
    found = together(data, index, [number])
    return None if found is None else found[0]


def carefully(data: bytes, index: ShardIndex, number: int) -> RawSample:
    start = int(index.offset[number])
    return decode_sample(data[start : start + int(index.size[number])], "s.tar", index.keys[number], FEATURES)


def same(one: RawSample, other: RawSample) -> bool:
    equal = (one.key, one.id, one.labels, one.words) == (other.key, other.id, other.labels, other.words)
    return (
        equal
        and one.arrays.keys() == other.arrays.keys()
        and all(
            array.dtype == other.arrays[name].dtype and np.array_equal(array, other.arrays[name])
            for name, array in one.arrays.items()
        )
    )


def make(steps: dict[str, int], seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    made: Arrays = {"text": random.integers(0, 9, steps["text"], np.int32)} if "text" in steps else {}
    return made | {name: random.random((steps[name], 3), np.float32) for name in ("audio", "vision") if name in steps}


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(list(FEATURES)), st.integers(1, 200)), st.integers(0, 1200), st.booleans()
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_pack_writes_is_where_it_should_be(samples: list[tuple[dict[str, int], int, bool]]) -> None:
    files = []
    for number, (steps, note, long) in enumerate(samples):
        files += members(f"k{number}" * (40 if long else 1), make(steps, number), "x" * note)
    data = tar_of(files)
    index = build_index(data)
    every = list(range(len(samples)))
    for numbers in (every[:1], every[::-1], [every[-1], *every]):
        found = together(data, index, numbers)
        assert found is not None and len(found) == len(numbers)
        for number, one in zip(numbers, found, strict=True):
            assert same(one, carefully(data, index, number))


@pytest.mark.parametrize("order", ["reversed", "two swapped", "picture first", "columns first", "other type"])
def test_tars_of_other_writers_are_read_correctly(order: str) -> None:
    """Also where two modalities have arrays of one shape, and only their names tell them apart."""
    steps = {"text": 5, "audio": 4, "vision": 4}
    arrays = make(steps, 0)
    if order == "columns first":
        arrays["audio"] = np.asfortranarray(arrays["audio"])
    if order == "other type":
        arrays["audio"] = arrays["audio"].astype(np.float64)
    files = members("k", arrays, "")
    if order == "reversed":
        files = files[::-1]
    if order == "two swapped":
        files[0], files[3] = files[3], files[0]
    if order == "picture first":
        files.insert(0, ("k.jpg", bytes(600)))
    data = tar_of(files)
    index = build_index(data)
    assert quickly(data, index, 0) is None
    for name, array in arrays.items():
        assert np.array_equal(carefully(data, index, 0).arrays[name], array)


def test_members_beside_the_json_are_skipped() -> None:
    arrays = make({"text": 5, "audio": 4, "vision": 4}, 0)
    files = members("k", arrays, "")
    files.insert(2, ("k.jpg", bytes(600)))
    data = tar_of(files)
    index = build_index(data)
    found = quickly(data, index, 0)
    assert found is not None
    assert same(found, carefully(data, index, 0))


def test_a_tar_of_webdatasets_own_writer_is_not_gone_by(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members("k", make({"audio": 4}, 0), ""):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 0.5
            archive.addfile(info, io.BytesIO(content))
    data = out.getvalue()
    index = build_index(data)
    assert quickly(data, index, 0) is None
    assert carefully(data, index, 0).arrays["audio"].shape == (4, 3)


@pytest.mark.parametrize("steps", [200, 2**31 - 1])
@pytest.mark.parametrize("name", list(FEATURES))
def test_lengths_that_the_sample_has_no_room_for_are_not_gone_by(steps: int, name: str) -> None:
    """An index may hold any value; members are only searched for inside their sample."""
    files = members("a", make({"text": 3, "audio": 3, "vision": 3}, 0), "")
    data = tar_of(files)
    index = build_index(data)
    lengths = index.lengths.copy()
    lengths[0, list(FEATURES).index(name)] = steps
    assert quickly(data, replace(index, lengths=lengths), 0) is None
    # Also where the file's header says so too.
    suffix = f"a.{name}.npy"
    shape = "(3,)" if name == "text" else "(3, 3)"
    lying = [
        (
            file,
            content.replace(shape.encode(), shape.replace("3", str(steps), 1).encode()) if file == suffix else content,
        )
        for file, content in files
    ]
    data = tar_of(lying)
    assert quickly(data, replace(build_index(tar_of(files)), lengths=lengths), 0) is None
