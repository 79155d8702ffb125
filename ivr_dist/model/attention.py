"""Multi-head attention over padded sequences whose steps are stored flat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ivr_dist.model.dropout import Dropout
from ivr_dist.model.numerics import at_least_float32
from ivr_dist.model.padded_steps import SequenceLayout

_SHORT = 128
"""Longest sequence for which plain matrix products are faster on a CPU than the fused operation."""


class Attention(nn.Module):
    """Multi-head attention without biases on query, key and value, output projection with one.

    A sample without a valid key attends to its padding, whose values are 0, so its result is the output projection's
    bias: finite, and independent of the padding's content.

    The weights are separate parameters instead of `nn.Linear` modules, so that one product computes all projections.
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
        self,
        query: Tensor,
        query_layout: SequenceLayout,
        source: Tensor,
        key_layout: SequenceLayout,
        carried: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            query: [N_q, H].
            query_layout: Layout of the query's steps.
            source: [N_k, H], keys and values; the query itself for self-attention.
            key_layout: Layout of the source's steps.
            carried: [N_k, H], averaged with the same weights but not projected, head by head (H / heads features
                each).

        Returns:
            [N_q, H] attended values, and [N_q, H] averages of `carried`, or [N_q, 0] without it.
        """
        weights = [self.query_weight, self.key_weight, self.value_weight]
        if source is query and carried is None:
            parts = [
                torch.split(part, self.heads)
                for part in query_layout.to_blocks(_projected(query, weights), 3 * self.heads)
            ]
        else:
            stored = _projected(source, weights[1:])
            if carried is not None:
                stored = torch.cat([stored, carried.to(stored.dtype)], dim=-1)
            queries = query_layout.to_blocks(_projected(query, weights[:1]), self.heads)
            keys_values = key_layout.to_blocks(stored, (2 if carried is None else 3) * self.heads)
            parts = [(q, *torch.split(kv, self.heads)) for q, kv in zip(queries, keys_values, strict=True)]
        mixed = [_attend(q, k, v, bias) for (q, k, *v), bias in zip(parts, key_layout.bias, strict=True)]
        own = query_layout.from_blocks([values[0] for values in mixed])
        along = own[:, :0] if carried is None else query_layout.from_blocks([values[1] for values in mixed])
        return self.dropout(self.output(own)), along


def _projected(steps: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Apply several weights at once: [N, H] to [N, H * weights]."""
    return F.linear(steps, weights[0] if len(weights) == 1 else torch.cat(list(weights)))


def _attend(query: Tensor, key: Tensor, values: Sequence[Tensor], bias: Tensor) -> list[Tensor]:
    """Average values by softmax(q k / sqrt(d) + bias).

    Args:
        query: [heads, b, t_q, d].
        key: [heads, b, t_k, d].
        values: [heads, b, t_k, d] each.
        bias: [b, t_k]; 0 at least once in every row.

    Returns:
        [heads, b, t_q, d] each.
    """
    heads, samples, queries, width = query.shape
    bias = bias.to(query.dtype)
    if query.device.type != "cpu" or max(queries, bias.shape[1]) > _SHORT:
        joined = F.scaled_dot_product_attention(query, key, torch.cat(list(values), dim=-1), attn_mask=bias[:, None])
        return list(torch.split(joined, width, dim=-1))
    rows = bias.expand(heads, samples, -1).reshape(heads * samples, 1, bias.shape[1])
    scores = torch.baddbmm(rows, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=width**-0.5)
    weights = torch.softmax(at_least_float32(scores), dim=-1).to(query.dtype)
    return [torch.bmm(weights, value.flatten(0, 1)).view(query.shape) for value in values]
