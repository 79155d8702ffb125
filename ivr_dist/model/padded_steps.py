"""Flat storage of padded sequences: layout of the valid steps of a batch, and their positions.

Shapes: B samples, T positions of a padded sequence, N valid steps of a batch, H features.

Layers that act on single steps run on the valid steps alone, stored flat as [N, H]; only attention and recurrence need
them padded. All shapes follow from those of the batch, never from its values, so a compiled model is not recompiled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from ivr_dist.data.batches.batch import ModalityBatch
from ivr_dist.data.batches.length_buckets import Blocks
from ivr_dist.model.numerics import at_least_float32

_TABLE = 64
"""Lengths of cached tables are multiples of this, so that few tables serve many lengths."""


@dataclass(frozen=True)
class SequenceLayout:
    """Layout of N flat steps in B padded sequences of T >= 1 positions.

    The valid steps of a sample move to its front, so the location of the padding has no influence.
    """

    sample: Tensor
    """[N] int64, the sample of each step."""
    position: Tensor
    """[N] int64, position of each step in its sample, from 0."""
    flat_index: Tensor
    """[N] int64, index of each step in the flattened [B * T]."""
    counted: Tensor
    """[N] bool, false for an unused placeholder (see `query_steps`)."""
    mask: Tensor
    """[B, T] bool, positions of the counted steps."""
    blocks: Blocks
    """Samples of similar length together, for attention."""
    block_index: Tensor
    """[N] int64, the index of each step in the concatenation of all blocks."""
    lengths: Tensor = field(init=False)
    """[B] int64, counted steps of each sample."""
    present: Tensor = field(init=False)
    """[B] bool, samples with at least one counted step."""
    bias: tuple[Tensor, ...] = field(init=False)
    """By block: [b, t] float32, 0 for keys that attention may use, else -inf; 0 for all where no step is counted."""
    _cuts: dict[int, Tensor] = field(init=False, default_factory=dict)
    """Cache of `_block_indices`, by number of parts of a step."""

    def __post_init__(self) -> None:
        # Not cached properties, whose lock breaks the graph of torch.compile.
        lengths = self.mask.sum(dim=1)
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "present", lengths > 0)
        counted = self.mask.flatten().index_select(0, self.flat_index)
        keys = torch.zeros(sum(self._sizes()), dtype=torch.bool, device=counted.device)
        keys.index_copy_(0, self.block_index, counted)
        parts = zip(torch.split(keys, self._sizes()), self.blocks.shapes, strict=True)
        object.__setattr__(self, "bias", tuple(_bias(part.view(shape)) for part, shape in parts))

    @classmethod
    def of(cls, part: ModalityBatch) -> SequenceLayout:
        """Build the layout of the valid steps of one modality."""
        batch, width = part.mask.shape[0], max(part.mask.shape[1], 1)
        rows = torch.arange(batch, device=part.mask.device)
        # Flat steps are ordered by sample, so a search finds the first one of each.
        first = torch.searchsorted(part.sample, rows)
        position = torch.arange(len(part.sample), device=rows.device) - first.index_select(0, part.sample)
        return cls(
            sample=part.sample,
            position=position,
            flat_index=part.sample * width + position,
            counted=torch.ones_like(part.sample, dtype=torch.bool),
            mask=torch.arange(width, device=rows.device) < part.mask.sum(dim=1, keepdim=True),
            blocks=part.blocks,
            block_index=part.blocks.start.index_select(0, part.sample) + 1 + position,
        )

    def pad(self, steps: Tensor) -> Tensor:
        """[N, ...] to [B, T, ...], zeros in the padding."""
        batch, width = self.mask.shape
        padded = steps.new_zeros(batch * width, *steps.shape[1:]).index_copy_(0, self.flat_index, steps)
        return padded.view(batch, width, *steps.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """[B, T, ...] to [N, ...]."""
        return padded.flatten(0, 1).index_select(0, self.flat_index)

    def to_blocks(self, steps: Tensor, parts: int) -> list[Tensor]:
        """[N, parts * d] to [parts, b, t, d] by block, zeros in the padding."""
        width, sizes = steps.shape[1] // parts, self._sizes()
        padded = steps.new_zeros(parts * sum(sizes), width)
        padded.index_copy_(0, self._block_indices(parts), steps.reshape(len(steps) * parts, width))
        blocks = zip(torch.split(padded.view(parts, sum(sizes), width), sizes, dim=1), self.blocks.shapes, strict=True)
        return [block.view(parts, *shape, width) for block, shape in blocks]

    def from_blocks(self, padded: Sequence[Tensor]) -> Tensor:
        """[parts, b, t, d] by block to [N, parts * d]."""
        flat = [block.flatten(1, 2) for block in padded]
        joined = flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)
        parts, _, width = joined.shape
        steps = joined.flatten(0, 1).index_select(0, self._block_indices(parts))
        return steps.view(len(self.sample), parts * width)

    def _sizes(self) -> list[int]:
        """Padded steps of each block."""
        return [samples * length for samples, length in self.blocks.shapes]

    def _block_indices(self, parts: int) -> Tensor:
        """[N * parts] int64: index of each part of each step, all of one part before those of the next."""
        if parts not in self._cuts:
            first = sum(self._sizes()) * torch.arange(parts, device=self.block_index.device)
            self._cuts[parts] = (self.block_index[:, None] + first).flatten()
        return self._cuts[parts]

    def total(self, steps: Tensor) -> Tensor:
        """Sum over each sample's counted steps, in float32 at least: [N, H] to [B, H]."""
        kept = at_least_float32(steps) * self.counted[:, None]
        return kept.new_zeros(len(self.mask), kept.shape[1]).index_add_(0, self.sample, kept)

    def mean(self, steps: Tensor) -> Tensor:
        """Mean over each sample's counted steps, in float32 at least: [N, H] to [B, H]; 0 where there are none."""
        return self.total(steps) / self.lengths.clamp(min=1)[:, None]


def _bias(keys: Tensor) -> Tensor:
    """Attention bias [b, t]: 0 for counted keys, else -inf; 0 for all keys of a sample without counted ones."""
    hidden = ~keys & keys.any(dim=1, keepdim=True)
    return torch.zeros(keys.shape, device=keys.device).masked_fill_(hidden, -math.inf)


def query_steps(layouts: Mapping[str, SequenceLayout]) -> SequenceLayout:
    """Build the layout of the query steps: those of text, then one placeholder per sample, counted if it has no text.

    Thus every sample has a query for the cross attention, and shapes do not depend on which samples lack text.

    Args:
        layouts: By modality; text may be absent.
    """
    text, like = layouts.get("text"), next(iter(layouts.values()))
    rows = torch.arange(len(like.mask), device=like.mask.device)
    zeros = torch.zeros_like(rows)
    if text is None:
        every = torch.ones_like(rows, dtype=torch.bool)
        shapes = tuple((samples, 1) for samples, _ in like.blocks.shapes)
        return SequenceLayout(
            sample=rows,
            position=zeros,
            flat_index=rows,
            counted=every,
            mask=every[:, None],
            blocks=replace(like.blocks, start=like.blocks.row, shapes=shapes),
            block_index=like.blocks.row,
        )
    width = text.mask.shape[1]
    missing = ~text.present
    return SequenceLayout(
        sample=torch.cat([text.sample, rows]),
        position=torch.cat([text.position, zeros]),
        flat_index=torch.cat([text.sample * (width + 1) + text.position, rows * (width + 1) + width]),
        counted=torch.cat([text.counted, missing]),
        mask=torch.cat([text.mask, missing[:, None]], dim=1),
        blocks=text.blocks,
        block_index=torch.cat([text.block_index, text.blocks.start]),
    )


def with_positions(steps: Tensor, layout: SequenceLayout) -> Tensor:
    """Add sinusoidal positions (Vaswani et al. 2017, section 3.5) to [N, H]; H must be even."""
    length = _TABLE * -(-layout.mask.shape[1] // _TABLE)
    # The compiler traces through the cache, with a warning.
    positions = _positions.__wrapped__ if torch.compiler.is_compiling() else _positions
    table: Tensor = positions(length, steps.shape[1], steps.dtype, steps.device)
    return steps + table.index_select(0, layout.position)


@lru_cache(maxsize=64)
def _positions(length: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Compute [length, width] alternating sines and cosines."""
    wider = torch.promote_types(dtype, torch.float32)
    rate = torch.exp(torch.arange(0, width, 2, device=device, dtype=wider) * (-math.log(10_000.0) / width))
    angle = torch.arange(length, device=device)[:, None] * rate
    return torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).flatten(1).to(dtype)
