"""Padding removal: only zeros are removed, and padding is undone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.corpora.readers import padding
from ivr_dist.corpora.readers.padding import Side

Rows = npt.NDArray[np.float32]
SIDES: list[Side] = ["end", "front"]


def sequences(least: int = 0) -> st.SearchStrategy[Rows]:
    """[T, 3] sequences whose outer steps are not zero; inner steps may be."""
    values = st.sampled_from([0.0, 1.0, -2.5, np.nan, -np.inf])
    step = st.tuples(values, values, values)
    lists = st.lists(step, min_size=least, max_size=6)
    sound = lists.filter(lambda rows: not rows or (any(v != 0 for v in rows[0]) and any(v != 0 for v in rows[-1])))
    return sound.map(lambda rows: np.array(rows, np.float32).reshape(-1, 3))


def padded(rows: Rows, total: int, side: Side) -> Rows:
    zeros = np.zeros((total - len(rows), rows.shape[1]), rows.dtype)
    return np.concatenate([rows, zeros] if side == "end" else [zeros, rows])


@given(sequences(), st.integers(6, 9), st.sampled_from(SIDES))
def test_each_comes_back(rows: Rows, total: int, side: Side) -> None:
    found = padding.cut_each({"audio": padded(rows, total, side)}, side)
    if not len(rows):
        assert found == {}
    else:
        assert found["audio"].tobytes() == rows.tobytes()


@given(sequences(), sequences(), st.integers(6, 9), st.integers(0, 9), st.sampled_from(SIDES))
def test_alike_keeps_steps_together(one: Rows, two: Rows, total: int, at_least: int, side: Side) -> None:
    rows = {"audio": padded(one, total, side), "vision": padded(two, total, side)}
    found = padding.cut_alike(rows, side, at_least)
    count = min(total, max(len(one), len(two), at_least))
    assert set(found) == {name for name, values in (("audio", one), ("vision", two)) if len(values)}
    for name, values in found.items():
        assert values.tobytes() == padding.keep(rows[name], count, side).tobytes()


@given(sequences(1), st.integers(6, 9), st.sampled_from(SIDES))
def test_length_says_how_many(rows: Rows, total: int, side: Side) -> None:
    assert padding.cut_to_length(padded(rows, total, side), len(rows), side).tobytes() == rows.tobytes()
    assert len(padding.cut_to_length(np.zeros((total, 3)), len(rows), side)) == 0
    with pytest.raises(ValueError, match="its length says"):
        padding.cut_to_length(rows, len(rows) + 1, side)
    other: Side = "front" if side == "end" else "end"
    if 2 * len(rows) <= total:
        with pytest.raises(ValueError, match=f"does not look padded at the {side}"):
            padding.cut_to_length(padded(rows, total, other), len(rows), side)


def test_padding_that_is_not_zero_is_cut_by_length() -> None:
    rows = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
    assert np.array_equal(padding.cut_to_length(rows, 2, "end"), rows[:2])
    assert np.array_equal(padding.cut_to_length(rows, 2, "front"), rows[2:])
