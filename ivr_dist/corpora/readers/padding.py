"""Padding of sequences in arrays of one length: steps of zeros, at the end or at the front.

A step is padding only if it and all that follow (or precede) it are exactly zero in every feature, so that no value
other than zero is ever cut; a NaN or an infinity is not zero. A sequence of zeros alone has no steps: it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ivr_dist.corpora.source import Array

Side = Literal["end", "front"]


def steps(rows: Array, padded: Side) -> int:
    """Steps of [T, D] rows that are not padding; 0 if all are zero."""
    if not len(rows):
        return 0
    filled = np.logical_or.reduce(rows, axis=1)
    outwards = filled if padded == "front" else filled[::-1]
    padding = int(outwards.argmax())
    return len(rows) - padding if outwards[padding] else 0


def keep(rows: Array, count: int, padded: Side) -> Array:
    """The `count` steps of [T, D] rows (or [T] ids) that are not padding."""
    return rows[:count] if padded == "end" else rows[len(rows) - count :]


def cut_each(rows: Mapping[str, Array], padded: Side) -> dict[str, Array]:
    """Every modality's own steps; those that are missing are absent."""
    counts = {name: steps(values, padded) for name, values in rows.items()}
    return {name: keep(rows[name], count, padded) for name, count in counts.items() if count}


def cut_alike(rows: Mapping[str, Array], padded: Side, at_least: int = 0) -> dict[str, Array]:
    """The same number of steps of every modality, as many as the longest needs: step t stays step t.

    Args:
        rows: By modality: [T, D], T the same for all.
        padded: Where.
        at_least: Steps that are known not to be padding.

    Returns:
        By modality; those that are missing are absent.
    """
    counts = {name: steps(values, padded) for name, values in rows.items()}
    count = max([at_least, *counts.values()])
    return {name: keep(values, min(count, len(values)), padded) for name, values in rows.items() if counts[name]}


def cut_to_length(rows: Array, length: int, padded: Side) -> Array:
    """The steps that the file's own length says.

    Raises:
        ValueError: There are fewer, or the padding is plainly at the other side: the outermost step that is kept is
            zero, and one that is cut is not.
    """
    if not 0 <= length <= len(rows):
        raise ValueError(f"it has {len(rows)} steps, its length says {length}")
    kept = keep(rows, length, padded)
    outermost, rest = (kept[:1], rows[length:]) if padded == "end" else (kept[-1:], rows[: len(rows) - length])
    if length and not outermost.any() and rest.any():
        raise ValueError(f"{length} of its {len(rows)} steps are valid, but it does not look padded at the {padded}")
    return present(kept)


def present(rows: Array) -> Array:
    """The steps; none of them if all are zero."""
    return rows if rows.any() else rows[:0]
