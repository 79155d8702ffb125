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

from ivr_dist.model.dropout import drawn_as_bits, drop, random_bits, zero_below

_ROWS = 512
"""Rows of a block: 4 MB of hidden values at the widest layers in use (2,048)."""


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
        if drawn_as_bits(x, rate) and self.widen_weight.dtype == x.dtype and not torch.is_autocast_enabled("cpu"):
            out: Tensor = _Blocks.apply(x.flatten(0, -2), *weights, rate)  # type: ignore[no-untyped-call]
            return out.view(x.shape)
        hidden = F.dropout(torch.relu(F.linear(x, self.widen_weight, self.widen_bias)), rate)
        return F.linear(hidden, self.narrow_weight, self.narrow_bias)


class _Blocks(torch.autograd.Function):
    """The layer over blocks of rows. Saved for backward: its input, and the hidden values after dropout.

    Dropout only zeroes here; its factor 1 / (1 - p) goes into the products, where it costs nothing. Products that give
    or take few columns are written such that the many hidden ones are their columns: twice as fast where D is 35.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, rate: float
    ) -> Tensor:
        hidden, turned = x.new_empty(len(x), len(widen)), x.new_empty(len(narrow), len(x))
        scale = 1.0 / (1.0 - rate)
        blocks = zip(torch.split(x, _ROWS), torch.split(hidden, _ROWS), torch.split(turned, _ROWS, dim=1), strict=True)
        for rows, block, result in blocks:
            torch.addmm(widen_bias, rows, widen.t(), out=block).relu_()
            if rate > 0:
                drop(block, random_bits(block.numel()), rate)
            torch.addmm(result, narrow, block.t(), beta=0, alpha=scale, out=result)
        ctx.save_for_backward(x, widen, narrow, hidden)
        ctx.scale = scale
        return torch.add(turned.t(), narrow_bias, out=x.new_empty(len(x), len(narrow)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, widen, narrow, hidden = ctx.saved_tensors
        turned, to_widen = x.new_empty(x.shape[::-1]), widen.new_zeros(widen.shape[::-1])
        to_narrow, to_widen_bias = torch.zeros_like(narrow), widen.new_zeros(len(widen))
        space = x.new_empty(min(len(x), _ROWS), len(widen))
        blocks = zip(
            *(torch.split(part, _ROWS) for part in (x, hidden, gradient)),
            torch.split(turned, _ROWS, dim=1),
            strict=True,
        )
        for rows, block, upper, lower in blocks:
            to_narrow.addmm_(upper.t(), block, alpha=ctx.scale)
            inner = space[: len(rows)]
            torch.addmm(inner, upper, narrow, beta=0, alpha=ctx.scale, out=inner)
            # Where a hidden value is 0, whether by ReLU or by dropout, nothing comes back.
            zero_below(inner, block, 0.0)
            to_widen.addmm_(rows.t(), inner)
            to_widen_bias += inner.sum(dim=0)
            torch.mm(widen.t(), inner.t(), out=lower)
        return turned.t().contiguous(), to_widen.t().contiguous(), to_widen_bias, to_narrow, gradient.sum(dim=0), None
