"""Length bucketing within a batch: blocks of samples of similar length, so that attention computes little padding.

All other work runs on the valid time steps only. Attention needs padded sequences, and its cost grows with the square
of their common length: one segment of 114 words among 255 of 13 would make it eighty times as expensive. So a batch is
divided into blocks of samples, each padded to its own longest. All modalities have the same blocks, because they attend
to each other, and no result depends on the blocks.

1. Group the samples by the power of two of their longest modality.
2. From the shortest group on, merge a group into the next one if the padding that this adds costs less attention than
   another call.
3. Number the samples block by block, and compute the first position of each for every modality.
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

_MAX_WASTED = 1 << 14
"""Maximum number of pairs of padded steps that attention computes to avoid another call for one more block."""


@dataclass(frozen=True)
class Blocks(Tensors):
    """Positions of the steps of one modality, block after block, and sample after sample in a block.

    Every sample has one position more than the longest of its block has steps: the first one, for a placeholder.
    """

    row: Tensor
    """[B] int64, the number of each sample in the order of the blocks."""
    start: Tensor
    """[B] int64, the first position of each sample."""
    shapes: tuple[tuple[int, int], ...]
    """Number of samples, and of positions of a sample, of each block; at least one block."""


@lru_cache(maxsize=256)
def one_block(samples: int, longest: int) -> Blocks:
    """Put all samples into one block, in their order."""
    row = torch.arange(samples)
    return Blocks(row=row, start=row * (longest + 1), shapes=((samples, longest + 1),))


def blocks_of(lengths: Sequence[Int64Array]) -> list[Blocks]:
    """Divide a batch into blocks.

    Args:
        lengths: By modality, [B] valid steps of each sample.

    Returns:
        The blocks of each modality: the same samples in the same order, each modality with its own positions.
    """
    counts = np.stack(lengths)
    longest = counts.max(axis=0, initial=0)
    if not len(longest) or longest.min() == longest.max():
        return [one_block(len(longest), int(own.max(initial=0))) for own in counts]
    parts = _bucket(longest)
    order = np.concatenate(parts)
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    return [_blocks(own, parts, row) for own in counts]


def _bucket(longest: Int64Array) -> list[Int64Array]:
    """Group samples [B] by powers of two of their length; groups too small to pay off join the next longer one."""
    power = np.ceil(np.log2(np.maximum(longest, 1))).astype(np.int64)
    order = np.argsort(power, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(power[order])) + 1)
    blocks, waiting = [], groups[0]
    for group in groups[1:]:
        wasted = len(waiting) * (int(longest[group].max()) ** 2 - int(longest[waiting].max()) ** 2)
        if wasted > _MAX_WASTED:
            blocks.append(waiting)
            waiting = group
        else:
            waiting = np.concatenate([waiting, group])
    return [*blocks, waiting]


def _blocks(own: Int64Array, parts: Sequence[Int64Array], row: Int64Array) -> Blocks:
    shapes = tuple((len(part), 1 + int(own[part].max(initial=0))) for part in parts)
    widths = np.concatenate([np.full(samples, width) for samples, width in shapes])
    starts = np.cumsum(widths) - widths
    return Blocks(row=torch.from_numpy(row), start=torch.from_numpy(starts[row].astype(np.int64)), shapes=shapes)
