"""Cached states of texts: found by the pieces, complete or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.data.text_states import Float32Array, PartWriter, TextStates, complete, is_complete, key_of
from ivr_dist.errors import CorruptDataError, StorageError

TEXTS = st.lists(st.lists(st.integers(0, 30_000), min_size=1, max_size=9), max_size=20)


def states_of(ids: list[int]) -> Float32Array:
    return np.array([[n, number] for number, n in enumerate(ids)], np.float32)


def write(folder: Path, parts: list[list[list[int]]]) -> str:
    written = f"{folder}.tmp"
    for number, texts in enumerate(parts):
        part = PartWriter(written, number, {key_of(ids): len(ids) for ids in texts}, 2)
        for ids in texts:
            part.put(key_of(ids), states_of(ids))
        part.close()
    complete(written, str(folder), parts=len(parts), width=2)
    return str(folder)


@given(TEXTS, TEXTS, st.lists(st.integers(0, 30_000), min_size=10, max_size=10))
def test_each_text_has_its_own_states(one: list[list[int]], other: list[list[int]], absent: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        states = TextStates([write(Path(place) / "a", [one, []]), write(Path(place) / "b", [other])])
        for ids in [*one, *other]:
            assert np.array_equal(states.find(ids), states_of(ids))
        with pytest.raises(CorruptDataError, match=r"the cached states lack a text .* delete these directories"):
            states.find(absent)


def test_a_second_writer_of_the_same_states_keeps_the_first_ones(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    assert not is_complete(str(folder))
    write(folder, [[[1, 2]]])
    before = (folder / "part-00000" / "states.npy").stat().st_ino
    write(folder, [[[1, 2]], []])
    assert is_complete(str(folder)) and [path.name for path in tmp_path.iterdir()] == ["states"]
    assert (folder / "part-00000" / "states.npy").stat().st_ino == before


def test_damage_names_the_part_and_the_remedy(tmp_path: Path) -> None:
    folder = write(tmp_path / "states", [[[1, 2], [3]]])
    file = tmp_path / "states" / "part-00000" / "states.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CorruptDataError, match=r"cannot be read.*part-00000.*delete the directory"):
        TextStates([folder])
    file.unlink()
    with pytest.raises(CorruptDataError, match=r"cannot be read.*part-00000"):
        TextStates([folder])


def test_too_little_space_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"are needed, .* are free .*set model.text.states_dir") as caught:
        PartWriter(str(tmp_path / "states"), 0, {(1, 2): 2**40}, 384)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC
