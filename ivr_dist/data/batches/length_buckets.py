"""Samples of a batch in blocks of similar length, so that attention pays for little padding.

All other work runs on the valid steps alone. Attention needs sequences side by side, and its cost grows with the square
of their common length: one segment of 114 words among 255 of 13 would make it eighty times as expensive. So a batch is
cut into blocks of samples, each padded to its own longest. The blocks are the same for all modalities, which attend to
each other, and no result depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ivr_dist.data.batches.tensor_dataclass import Tensors

Int64Array = npt.NDArray[np.int64]

_WORTH = 1 << 14
"""Pairs of steps that attention may compute in vain rather than run once more for another block."""


@dataclass(frozen=True)
class Blocks(Tensors):
    """Where the steps of one modality stand when block follows block, and in a block sample follows sample.

    Every sample has one place more than the longest of its block has steps, the first one, for a placeholder.
    """

    row: Tensor
    """[B] int64, the number of each sample in the order of the blocks."""
    start: Tensor
    """[B] int64, the first place of each sample."""
    shapes: tuple[tuple[int, int], ...]
    """Samples and places a sample of each block; at least one block."""


@lru_cache(maxsize=256)
def one_block(samples: int, longest: int) -> Blocks:
    """All samples in their own order."""
    row = torch.arange(samples)
    return Blocks(row=row, start=row * (longest + 1), shapes=((samples, longest + 1),))


def blocks_of(lengths: Sequence[Int64Array]) -> list[Blocks]:
    """Cut a batch.

    Args:
        lengths: By modality, [B] valid steps of each sample.

    Returns:
        The blocks of each modality: the same samples in the same order, each modality with its own places.
    """
    counts = np.stack(lengths)
    longest = counts.max(axis=0, initial=0)
    if not len(longest) or longest.min() == longest.max():
        return [one_block(len(longest), int(own.max(initial=0))) for own in counts]
    parts = _cut(longest)
    order = np.concatenate(parts)
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    return [_placed(own, parts, row) for own in counts]


def _cut(longest: Int64Array) -> list[Int64Array]:
    """Samples [B] of each block, by powers of two of their length; blocks not worth it join the next longer one."""
    power = np.ceil(np.log2(np.maximum(longest, 1))).astype(np.int64)
    order = np.argsort(power, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(power[order])) + 1)
    blocks, waiting = [], groups[0]
    for group in groups[1:]:
        wasted = len(waiting) * (int(longest[group].max()) ** 2 - int(longest[waiting].max()) ** 2)
        if wasted > _WORTH:
            blocks.append(waiting)
            waiting = group
        else:
            waiting = np.concatenate([waiting, group])
    return [*blocks, waiting]


def _placed(own: Int64Array, parts: Sequence[Int64Array], row: Int64Array) -> Blocks:
    shapes = tuple((len(part), 1 + int(own[part].max(initial=0))) for part in parts)
    places = np.concatenate([np.full(samples, width) for samples, width in shapes])
    starts = np.cumsum(places) - places
    return Blocks(row=torch.from_numpy(row), start=torch.from_numpy(starts[row].astype(np.int64)), shapes=shapes)
