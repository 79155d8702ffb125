"""Padding removal: sequences in arrays of a common length, padded with zero steps at the end or at the front.

A time step is padding only if it and all steps after it (or before it) are exactly zero in every feature, so only zeros
are ever removed; NaN and infinity are not zero. A sequence of zeros only has no steps, which means it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ivr_dist.corpora.source import Array

Side = Literal["end", "front"]


def steps(rows: Array, padded: Side) -> int:
    """Count the steps of [T, D] rows that are not padding; 0 if all are zero."""
    if not len(rows):
        return 0
    filled = np.logical_or.reduce(rows, axis=1)
    outwards = filled if padded == "front" else filled[::-1]
    padding = int(outwards.argmax())
    return len(rows) - padding if outwards[padding] else 0


def keep(rows: Array, count: int, padded: Side) -> Array:
    """Select the `count` steps of [T, D] rows (or [T] ids) on the unpadded side."""
    return rows[:count] if padded == "end" else rows[len(rows) - count :]


def cut_each(rows: Mapping[str, Array], padded: Side) -> dict[str, Array]:
    """Remove the padding of each modality separately; missing modalities are absent from the result."""
    counts = {name: steps(values, padded) for name, values in rows.items()}
    return {name: keep(rows[name], count, padded) for name, count in counts.items() if count}


def cut_alike(rows: Mapping[str, Array], padded: Side, at_least: int = 0) -> dict[str, Array]:
    """Remove the same number of padding steps from every modality, as far as all are padded, to keep them aligned.

    Args:
        rows: By modality: [T, D], with the same T.
        padded: Side of the padding.
        at_least: Number of steps to keep at least.

    Returns:
        Steps by modality; missing modalities are absent.
    """
    counts = {name: steps(values, padded) for name, values in rows.items()}
    count = max([at_least, *counts.values()])
    return {name: keep(values, min(count, len(values)), padded) for name, values in rows.items() if counts[name]}


def cut_to_length(rows: Array, length: int, padded: Side) -> Array:
    """Cut rows to a length that the file states.

    Raises:
        ValueError: There are fewer steps, or the padding is clearly on the other side: the outermost step that is kept
            is zero, and one that is cut is not.
    """
    if not 0 <= length <= len(rows):
        raise ValueError(f"it has {len(rows)} steps, its length says {length}")
    cut = keep(rows, length, padded)
    outermost, rest = (cut[:1], rows[length:]) if padded == "end" else (cut[-1:], rows[: len(rows) - length])
    if length and not outermost.any() and rest.any():
        raise ValueError(f"{length} of its {len(rows)} steps are valid, but it does not look padded at the {padded}")
    return present(cut)


def present(rows: Array) -> Array:
    """Return the steps, or none if all are zero."""
    return rows if rows.any() else rows[:0]
