"""Building blocks. Shapes: B samples, T places of a padded sequence, N valid steps of a batch, H features.

Work per step runs on the valid steps alone, laid out flat as [N, H]; only attention and recurrence see them padded. All
shapes follow from those of the batch, never from its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ivr_dist.config import ModelConfig
from ivr_dist.data.batch import ModalityBatch
from ivr_dist.data.blocks import Blocks
from ivr_dist.model.dropout import Dropout
from ivr_dist.model.feedforward import FeedForward

_DROPOUT = {"encoder": 0.1, "cross": 0.2, "gate": 0.4, "head": 0.6, "discriminator": 0.6}


def dropout_rates(config: ModelConfig) -> dict[str, float]:
    """Dropout by site: the config's one rate, or those of the published method."""
    return {site: rate if config.dropout is None else config.dropout for site, rate in _DROPOUT.items()}


def wide(x: Tensor) -> Tensor:
    """The same numbers in float32 at least: sums and norms lose too much in less."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def unit_norm(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Divide by the Euclidean norm over the last dimension; 0 stays 0, with a finite gradient."""
    square = wide(x).square().sum(dim=-1, keepdim=True)
    return x * torch.rsqrt(square + epsilon).to(x.dtype)


@dataclass(frozen=True)
class Steps:
    """Where N flat steps belong in B padded sequences of T >= 1 places.

    The valid steps of a sample move to its front, so padding has no influence wherever it stands.
    """

    sample: Tensor
    """[N] int64, the sample of each step."""
    position: Tensor
    """[N] int64, its number among the sample's steps, from 0."""
    place: Tensor
    """[N] int64, its place in the flattened [B * T]."""
    counted: Tensor
    """[N] bool, false for a placeholder that stands in for nothing (see `query_steps`)."""
    mask: Tensor
    """[B, T] bool, places of the counted steps."""
    blocks: Blocks
    """Samples of similar length together, for attention."""
    block_place: Tensor
    """[N] int64, the place of each step when block follows block."""
    lengths: Tensor = field(init=False)
    """[B] int64, counted steps of each sample."""
    present: Tensor = field(init=False)
    """[B] bool, samples with at least one counted step."""
    visible: tuple[Tensor, ...] = field(init=False)
    """By block: [b, 1, 1, t] bool, keys that attention may use; all, rather than none, where no step is counted."""

    def __post_init__(self) -> None:
        # Set here, since a cached property takes a lock, which breaks the graph of torch.compile.
        lengths = self.mask.sum(dim=1)
        seen = self.to_blocks(self.mask.flatten().index_select(0, self.place))
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "present", lengths > 0)
        object.__setattr__(self, "visible", tuple((m | ~m.any(dim=1, keepdim=True))[:, None, None] for m in seen))

    @classmethod
    def of(cls, part: ModalityBatch) -> Steps:
        """The valid steps of one modality."""
        batch, width = part.mask.shape[0], max(part.mask.shape[1], 1)
        rows = torch.arange(batch, device=part.mask.device)
        # Flat steps are ordered by sample, so a search finds the first one of each.
        first = torch.searchsorted(part.sample, rows)
        position = torch.arange(len(part.sample), device=rows.device) - first.index_select(0, part.sample)
        return cls(
            sample=part.sample,
            position=position,
            place=part.sample * width + position,
            counted=torch.ones_like(part.sample, dtype=torch.bool),
            mask=torch.arange(width, device=rows.device) < part.mask.sum(dim=1, keepdim=True),
            blocks=part.blocks,
            block_place=part.blocks.start.index_select(0, part.sample) + 1 + position,
        )

    def pad(self, steps: Tensor) -> Tensor:
        """[N, ...] to [B, T, ...], zeros in the padding."""
        batch, width = self.mask.shape
        padded = steps.new_zeros(batch * width, *steps.shape[1:]).index_copy_(0, self.place, steps)
        return padded.view(batch, width, *steps.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """[B, T, ...] to [N, ...]."""
        return padded.flatten(0, 1).index_select(0, self.place)

    def to_blocks(self, steps: Tensor) -> list[Tensor]:
        """[N, ...] to [b, t, ...] by block, zeros in the padding."""
        sizes = [samples * places for samples, places in self.blocks.shapes]
        padded = steps.new_zeros(sum(sizes), *steps.shape[1:]).index_copy_(0, self.block_place, steps)
        parts = zip(torch.split(padded, sizes), self.blocks.shapes, strict=True)
        return [part.view(*shape, *steps.shape[1:]) for part, shape in parts]

    def from_blocks(self, padded: Sequence[Tensor]) -> Tensor:
        """[b, t, ...] by block to [N, ...]."""
        joined = [part.flatten(0, 1) for part in padded]
        return (joined[0] if len(joined) == 1 else torch.cat(joined)).index_select(0, self.block_place)

    def total(self, steps: Tensor) -> Tensor:
        """Sum over each sample's counted steps, in float32 at least: [N, H] to [B, H]."""
        kept = wide(steps) * self.counted[:, None]
        return kept.new_zeros(len(self.mask), kept.shape[1]).index_add_(0, self.sample, kept)

    def mean(self, steps: Tensor) -> Tensor:
        """Mean over each sample's counted steps, in float32 at least: [N, H] to [B, H]; 0 where there are none."""
        return self.total(steps) / self.lengths.clamp(min=1)[:, None]


def query_steps(layouts: Mapping[str, Steps]) -> Steps:
    """The steps of text followed by one placeholder for each sample, which counts only where the sample has no text.

    So every sample has a step that can ask the other modalities, whoever lacks text, at fixed shapes.

    Args:
        layouts: By modality; text may be absent.
    """
    text, like = layouts.get("text"), next(iter(layouts.values()))
    rows = torch.arange(len(like.mask), device=like.mask.device)
    zeros = torch.zeros_like(rows)
    if text is None:
        every = torch.ones_like(rows, dtype=torch.bool)
        shapes = tuple((samples, 1) for samples, _ in like.blocks.shapes)
        return Steps(
            sample=rows,
            position=zeros,
            place=rows,
            counted=every,
            mask=every[:, None],
            blocks=replace(like.blocks, start=like.blocks.row, shapes=shapes),
            block_place=like.blocks.row,
        )
    width = text.mask.shape[1]
    missing = ~text.present
    return Steps(
        sample=torch.cat([text.sample, rows]),
        position=torch.cat([text.position, zeros]),
        place=torch.cat([text.sample * (width + 1) + text.position, rows * (width + 1) + width]),
        counted=torch.cat([text.counted, missing]),
        mask=torch.cat([text.mask, missing[:, None]], dim=1),
        blocks=text.blocks,
        block_place=torch.cat([text.block_place, text.blocks.start]),
    )


def with_positions(steps: Tensor, layout: Steps) -> Tensor:
    """Add sinusoidal positions (Vaswani et al. 2017, section 3.5) to [N, H]; H must be even."""
    width = steps.shape[1]
    dtype = torch.promote_types(steps.dtype, torch.float32)
    rate = torch.exp(torch.arange(0, width, 2, device=steps.device, dtype=dtype) * (-math.log(10_000.0) / width))
    angle = layout.position[:, None] * rate
    return steps + torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).flatten(1).to(steps.dtype)


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return -grad_outputs[0]


def reverse_gradient(x: Tensor) -> Tensor:
    """Identity whose gradient is multiplied by -1 (Ganin and Lempitsky 2015)."""
    reversed_: Tensor = _ReverseGradient.apply(x)  # type: ignore[no-untyped-call]
    return reversed_


class Attention(nn.Module):
    """Multi-head attention without biases on query, key and value, output projection with one.

    A sample without a valid key attends to its padding, whose values are 0, so its result is the output projection's
    bias: finite, and the same whatever stood in the padding.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(
        self, query: Tensor, asking: Steps, source: Tensor, answering: Steps, carried: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            query: [N_q, H].
            asking: Where the query's steps belong.
            source: [N_k, H], keys and values.
            answering: Where the source's steps belong.
            carried: [N_k, C], averaged with the same weights but not projected, head by head (C / heads features
                each); C may be 0.

        Returns:
            [N_q, H] attended values, and [N_q, C] what was carried along.
        """
        width = query.shape[1] // self.heads
        key = self._split(self.key(source))
        # Keys and values go into their blocks together.
        stored = torch.cat([key, self._split(self.value(source)), self._split(carried.to(key.dtype))], dim=-1)
        mixed = []
        for q, kv, seen in zip(
            asking.to_blocks(self._split(self.query(query))),
            answering.to_blocks(stored),
            answering.visible,
            strict=True,
        ):
            k, v = kv.transpose(1, 2).tensor_split([width], dim=-1)
            mixed.append(F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=seen).transpose(1, 2))
        own, along = asking.from_blocks(mixed).tensor_split([width], dim=-1)
        return self.dropout(self.output(own.flatten(1))), along.flatten(1)

    def _split(self, steps: Tensor) -> Tensor:
        return steps.view(len(steps), self.heads, steps.shape[1] // self.heads)


class TransformerLayer(nn.Module):
    """Post-norm encoder layer (Vaswani et al. 2017) over each sample's counted steps."""

    recompute = False
    """Whether what is inside is computed again in the backward pass instead of being kept."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.norm_attention = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, feedforward, dropout)
        self.norm_feedforward = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, steps: Tensor, layout: Steps) -> Tensor:
        """[N, H] to [N, H]."""
        if self.recompute and self.training and torch.is_grad_enabled():
            kept: Tensor = checkpoint(self._layer, steps, layout, use_reentrant=False)
            return kept
        return self._layer(steps, layout)

    def _layer(self, steps: Tensor, layout: Steps) -> Tensor:
        attended, _ = self.attention(steps, layout, steps, layout, steps[:, :0])
        steps = self.norm_attention(steps + attended)
        out: Tensor = self.norm_feedforward(steps + self.dropout(self.feedforward(steps)))
        return out
