"""Sequence packing: every text once, in rows that are nearly full."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.data.batches.sequence_packing import one_a_row, pack_rows

LENGTHS = st.lists(st.integers(0, 40), max_size=80)


@given(LENGTHS)
def test_every_text_with_pieces_is_in_one_row(lengths: list[int]) -> None:
    for rows in (pack_rows(lengths), one_a_row(lengths)):
        assert sorted(number for row in rows for number in row) == [n for n, length in enumerate(lengths) if length]
        assert all(sum(lengths[number] for number in row) <= max(lengths) for row in rows)


@given(LENGTHS)
def test_no_two_rows_fit_into_one(lengths: list[int]) -> None:
    filled = sorted(sum(lengths[number] for number in row) for row in pack_rows(lengths))
    assert len(filled) < 2 or filled[0] + filled[1] > max(lengths)


def test_short_texts_fill_the_rows_of_long_ones() -> None:
    assert pack_rows([]) == pack_rows([0, 0]) == []
    assert pack_rows([3, 10, 7, 6, 4]) == [[1], [2, 0], [3, 4]]
    assert one_a_row([3, 0, 7]) == [[0], [2]]
