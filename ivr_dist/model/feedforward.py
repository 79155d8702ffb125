"""The feed-forward part of a transformer layer: Linear, ReLU, dropout, Linear.

On a CPU the memory traffic between these four costs more than their matrix products do, stock dropout alone as much as
two of them. There the layer runs over blocks of rows that stay in cache and draws its dropout mask as raw random bits.
Elsewhere, in other precisions and under `torch.compile` it is the four operations, which a compiler fuses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ivr_dist.model.dropout import drawn_as_bits, drop, dropout, random_bits, zero_below

_ROWS = 1024
"""Rows of a block: 8 MB of hidden values at the widest layers in use (2,048)."""
_FEW = 128
"""Columns below which a product that gives them is faster the other way round, with the many hidden ones as columns."""


class FeedForward(nn.Module):
    """narrow(dropout(ReLU(widen(x)))), on [..., D].

    The parameters are its own, not those of two `nn.Linear`: ZeRO-3 gathers by the module whose forward runs.

    Args:
        width: D.
        hidden: Width of the layer in between.
        dropout: Rate p of the hidden values.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        widen, narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.widen_weight, self.widen_bias = widen.weight, widen.bias
        self.narrow_weight, self.narrow_bias = narrow.weight, narrow.bias
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        rate = self.dropout if self.training else 0.0
        weights = (self.widen_weight, self.widen_bias, self.narrow_weight, self.narrow_bias)
        plain = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or self.widen_weight.dtype != x.dtype
        if drawn_as_bits(x, rate) and not plain:
            out: Tensor = _Blocks.apply(x.flatten(0, -2), *weights, rate)  # type: ignore[no-untyped-call]
            return out.view(x.shape)
        hidden = dropout(torch.relu(F.linear(x, self.widen_weight, self.widen_bias)), rate)
        return F.linear(hidden, self.narrow_weight, self.narrow_bias)


class _Blocks(torch.autograd.Function):
    """The layer over blocks of rows. Saved for backward: its input, and the hidden values after dropout.

    Dropout only zeroes here; its factor 1 / (1 - p) goes into the products, where it costs nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, rate: float
    ) -> Tensor:
        hidden, out = x.new_empty(len(x), len(widen)), x.new_empty(len(x), len(narrow))
        scale = 1.0 / (1.0 - rate)
        for rows, block, result in zip(*(torch.split(part, _ROWS) for part in (x, hidden, out)), strict=True):
            torch.addmm(widen_bias, rows, widen.t(), out=block).relu_()
            if rate > 0:
                drop(block, random_bits(block.numel()), rate)
            torch.addmm(narrow_bias, block, narrow.t(), alpha=scale, out=result)
        ctx.save_for_backward(x, widen, narrow, hidden)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, widen, narrow, hidden = ctx.saved_tensors
        to_x, to_narrow = torch.empty_like(x), torch.empty_like(narrow)
        turned = x.shape[1] < _FEW
        to_widen = x.new_empty(widen.shape[::-1] if turned else widen.shape)
        to_widen_bias = x.new_zeros(len(widen))
        space = x.new_empty(min(len(x), _ROWS), len(widen))
        blocks = zip(*(torch.split(part, _ROWS) for part in (x, hidden, gradient, to_x)), strict=True)
        for number, (rows, block, upper, lower) in enumerate(blocks):
            kept = min(number, 1)
            to_narrow.addmm_(upper.t(), block, beta=kept, alpha=ctx.scale)
            inner = space[: len(rows)]
            torch.addmm(inner, upper, narrow, beta=0, alpha=ctx.scale, out=inner)
            # Where a hidden value is 0, whether by ReLU or by dropout, nothing comes back.
            zero_below(inner, block, 0.0)
            to_widen.addmm_(*((rows.t(), inner) if turned else (inner.t(), rows)), beta=kept)
            to_widen_bias += inner.sum(dim=0)
            torch.mm(inner, widen, out=lower)
        to_widen = to_widen.t().contiguous() if turned else to_widen
        return to_x, to_widen, to_widen_bias, to_narrow, gradient.sum(dim=0), None
