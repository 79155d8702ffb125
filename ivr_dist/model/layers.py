"""Building blocks. Shapes: B samples, T places of a padded sequence, N valid steps of a batch, H features.

Work per step runs on the valid steps alone, laid out flat as [N, H]; only attention and recurrence see them padded. All
shapes follow from those of the batch, never from its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
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

_SHORT = 128
"""Steps up to which a CPU attends faster by plain matrix products than by the fused operation."""
_TABLE = 64
"""Tables of positions are as long as a multiple of this, so that few are made for many lengths."""
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
    bias: tuple[Tensor, ...] = field(init=False)
    """By block: [b, t] float32, 0 for keys that attention may use, else -inf; 0 for all where no step is counted."""
    _cuts: dict[int, Tensor] = field(init=False, default_factory=dict)
    """By number of parts that a step is cut into: what `_places` found."""

    def __post_init__(self) -> None:
        # Set here, since a cached property takes a lock, which breaks the graph of torch.compile.
        lengths = self.mask.sum(dim=1)
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "present", lengths > 0)
        counted = self.mask.flatten().index_select(0, self.place)
        keys = torch.zeros(sum(self._sizes()), dtype=torch.bool, device=counted.device)
        keys.index_copy_(0, self.block_place, counted)
        parts = zip(torch.split(keys, self._sizes()), self.blocks.shapes, strict=True)
        object.__setattr__(self, "bias", tuple(_bias(part.view(shape)) for part, shape in parts))

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

    def to_blocks(self, steps: Tensor, parts: int) -> list[Tensor]:
        """[N, parts * d] to [parts, b, t, d] by block, zeros in the padding."""
        width, sizes = steps.shape[1] // parts, self._sizes()
        padded = steps.new_zeros(parts * sum(sizes), width)
        padded.index_copy_(0, self._places(parts), steps.reshape(len(steps) * parts, width))
        blocks = zip(torch.split(padded.view(parts, sum(sizes), width), sizes, dim=1), self.blocks.shapes, strict=True)
        return [block.view(parts, *shape, width) for block, shape in blocks]

    def from_blocks(self, padded: Sequence[Tensor]) -> Tensor:
        """[parts, b, t, d] by block to [N, parts * d]."""
        flat = [block.flatten(1, 2) for block in padded]
        joined = flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)
        parts, _, width = joined.shape
        steps = joined.flatten(0, 1).index_select(0, self._places(parts))
        return steps.view(len(self.sample), parts * width)

    def _sizes(self) -> list[int]:
        """Places of each block."""
        return [samples * places for samples, places in self.blocks.shapes]

    def _places(self, parts: int) -> Tensor:
        """[N * parts] int64: where each part of each step stands when all of one part come before those of the next."""
        if parts not in self._cuts:
            first = sum(self._sizes()) * torch.arange(parts, device=self.block_place.device)
            self._cuts[parts] = (self.block_place[:, None] + first).flatten()
        return self._cuts[parts]

    def total(self, steps: Tensor) -> Tensor:
        """Sum over each sample's counted steps, in float32 at least: [N, H] to [B, H]."""
        kept = wide(steps) * self.counted[:, None]
        return kept.new_zeros(len(self.mask), kept.shape[1]).index_add_(0, self.sample, kept)

    def mean(self, steps: Tensor) -> Tensor:
        """Mean over each sample's counted steps, in float32 at least: [N, H] to [B, H]; 0 where there are none."""
        return self.total(steps) / self.lengths.clamp(min=1)[:, None]


def _bias(keys: Tensor) -> Tensor:
    """[b, t]: 0 for keys that count, else -inf; 0 for all, rather than none, where none counts."""
    hidden = ~keys & keys.any(dim=1, keepdim=True)
    return torch.zeros(keys.shape, device=keys.device).masked_fill_(hidden, -math.inf)


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
    places = _TABLE * -(-layout.mask.shape[1] // _TABLE)
    # The compiler looks through the cache, and says so.
    made = _positions.__wrapped__ if torch.compiler.is_compiling() else _positions
    table: Tensor = made(places, steps.shape[1], steps.dtype, steps.device)
    return steps + table.index_select(0, layout.position)


@lru_cache(maxsize=64)
def _positions(places: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[places, width] sines and cosines in turns."""
    wider = torch.promote_types(dtype, torch.float32)
    rate = torch.exp(torch.arange(0, width, 2, device=device, dtype=wider) * (-math.log(10_000.0) / width))
    angle = torch.arange(places, device=device)[:, None] * rate
    return torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).flatten(1).to(dtype)


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

    The parameters are its own, not those of an `nn.Linear` each, since one product takes the steps to all of them.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_weight, self.key_weight, self.value_weight = (
            nn.Linear(width, width, bias=False).weight for _ in range(3)
        )
        self.output = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(
        self, query: Tensor, asking: Steps, source: Tensor, answering: Steps, carried: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            query: [N_q, H].
            asking: Where the query's steps belong.
            source: [N_k, H], keys and values; the query itself for self-attention.
            answering: Where the source's steps belong.
            carried: [N_k, H], averaged with the same weights but not projected, head by head (H / heads features
                each).

        Returns:
            [N_q, H] attended values, and [N_q, H] what was carried along, or [N_q, 0].
        """
        weights = [self.query_weight, self.key_weight, self.value_weight]
        if source is query and carried is None:
            parts = [
                torch.split(part, self.heads) for part in asking.to_blocks(_projected(query, weights), 3 * self.heads)
            ]
        else:
            stored = _projected(source, weights[1:])
            if carried is not None:
                stored = torch.cat([stored, carried.to(stored.dtype)], dim=-1)
            asked = asking.to_blocks(_projected(query, weights[:1]), self.heads)
            kept = answering.to_blocks(stored, (2 if carried is None else 3) * self.heads)
            parts = [(q, *torch.split(kv, self.heads)) for q, kv in zip(asked, kept, strict=True)]
        mixed = [_attend(q, k, v, bias) for (q, k, *v), bias in zip(parts, answering.bias, strict=True)]
        own = asking.from_blocks([values[0] for values in mixed])
        along = own[:, :0] if carried is None else asking.from_blocks([values[1] for values in mixed])
        return self.dropout(self.output(own)), along


def _projected(steps: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """[N, H] to [N, H * weights], one after the other."""
    return F.linear(steps, weights[0] if len(weights) == 1 else torch.cat(list(weights)))


def _attend(query: Tensor, key: Tensor, values: Sequence[Tensor], bias: Tensor) -> list[Tensor]:
    """Values averaged by softmax(q k / sqrt(d) + bias).

    Args:
        query: [heads, b, t_q, d].
        key: [heads, b, t_k, d].
        values: [heads, b, t_k, d] each.
        bias: [b, t_k]; 0 at least once in every row.

    Returns:
        [heads, b, t_q, d] each.
    """
    heads, samples, asking, width = query.shape
    bias = bias.to(query.dtype)
    if query.device.type != "cpu" or max(asking, bias.shape[1]) > _SHORT:
        joined = F.scaled_dot_product_attention(query, key, torch.cat(list(values), dim=-1), attn_mask=bias[:, None])
        return list(torch.split(joined, width, dim=-1))
    rows = bias.expand(heads, samples, -1).reshape(heads * samples, 1, bias.shape[1])
    scores = torch.baddbmm(rows, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=width**-0.5)
    weights = torch.softmax(wide(scores), dim=-1).to(query.dtype)
    return [torch.bmm(weights, value.flatten(0, 1)).view(query.shape) for value in values]


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
        attended, _ = self.attention(steps, layout, steps, layout)
        steps = self.norm_attention(steps + attended)
        out: Tensor = self.norm_feedforward(steps + self.dropout(self.feedforward(steps)))
        return out
