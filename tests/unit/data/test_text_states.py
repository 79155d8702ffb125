"""Cached states of texts: found by the pieces, complete or not there."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.data.text_states import (
    UNFINISHED,
    Float32Array,
    Group,
    PartWriter,
    TextStates,
    complete,
    groups,
    key_of,
    remove_abandoned,
)
from ivr_dist.errors import CorruptDataError, StorageError

TEXTS = st.lists(st.lists(st.integers(0, 30_000), min_size=1, max_size=9), max_size=20)


def states_of(ids: list[int]) -> Float32Array:
    return np.array([[n, number] for number, n in enumerate(ids)], np.float32)


def write(folder: Path, parts: list[list[list[int]]], group: str = "one") -> list[Group]:
    written = f"{folder}/{group}{UNFINISHED}"
    for number, texts in enumerate(parts):
        part = PartWriter(written, number, {key_of(ids): len(ids) for ids in texts}, 2)
        for ids in texts:
            part.put(key_of(ids), states_of(ids))
        part.close()
    assert not any(each.url.endswith(group) for each in groups(str(folder)))
    complete(written, parts=len(parts), width=2, covers=group)
    return groups(str(folder))


@given(TEXTS, TEXTS, st.lists(st.integers(0, 30_000), min_size=10, max_size=10))
def test_each_text_has_its_own_states(one: list[list[int]], other: list[list[int]], absent: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        states = TextStates([*write(Path(place) / "a", [one, []]), *write(Path(place) / "b", [other])])
        for ids in [*one, *other]:
            assert key_of(ids) in states and np.array_equal(states.find(ids), states_of(ids))
        assert key_of(absent) not in states
        with pytest.raises(CorruptDataError, match=r"the cached states lack a text .* delete these directories"):
            states.find(absent)


def test_a_group_adds_what_was_missing(tmp_path: Path) -> None:
    assert groups(str(tmp_path / "states")) == []
    write(tmp_path / "states", [[[1, 2]]])
    found = write(tmp_path / "states", [[[3]], []], "two")
    assert [(Path(group.url).name, group.parts, group.covers) for group in found] == [
        ("one", 1, "one"),
        ("two", 2, "two"),
    ]
    assert TextStates(found).find([1, 2]).shape == (2, 2) and TextStates(found).find([3]).shape == (1, 2)


def test_damage_names_the_part_and_the_remedy(tmp_path: Path) -> None:
    found = write(tmp_path / "states", [[[1, 2], [3]]])
    file = tmp_path / "states" / "one" / "part-00000" / "states.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CorruptDataError, match=r"cannot be read.*part-00000.*delete the directory"):
        TextStates(found)
    file.unlink()
    with pytest.raises(CorruptDataError, match=r"cannot be read.*part-00000"):
        TextStates(found)


def test_too_little_space_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"are needed, .* are free .*set model.text.states_dir") as caught:
        PartWriter(str(tmp_path / "states"), 0, {(1, 2): 2**40}, 384)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC


def test_what_a_killed_run_left_is_deleted_after_a_day(tmp_path: Path) -> None:
    remove_abandoned(str(tmp_path / "states"))
    for name in ("old", "new"):
        PartWriter(str(tmp_path / "states" / f"{name}{UNFINISHED}"), 0, {(1, 2): 3}, 2)
    long_ago = time.time() - 25 * 3600
    os.utime(tmp_path / "states" / f"old{UNFINISHED}", (long_ago, long_ago))
    remove_abandoned(str(tmp_path / "states"))
    assert [path.name for path in (tmp_path / "states").iterdir()] == [f"new{UNFINISHED}"]
