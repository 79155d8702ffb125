"""Sequence packing: several short texts in one row of a batch, so that hardly any of it is padding."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Put texts into as few rows as best-fit decreasing finds, each row as wide as the longest text.

    Args:
        lengths: Pieces of each text; texts without any are left out.

    Returns:
        The texts of each row, by number. They depend on the lengths only.
    """
    longest_first = sorted((number for number, length in enumerate(lengths) if length), key=lambda n: -lengths[n])
    width = max(lengths, default=0)
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # places left in a row, and its number, ascending
    for number in longest_first:
        fullest = bisect_left(free, (lengths[number], 0))
        if fullest < len(free):
            left, row = free.pop(fullest)
        else:
            left, row = width, len(rows)
            rows.append([])
        rows[row].append(number)
        insort(free, (left - lengths[number], row))
    return rows


def one_a_row(lengths: Sequence[int]) -> list[list[int]]:
    """Put each text into its own row; texts without pieces are left out."""
    return [[number] for number, length in enumerate(lengths) if length]
