"""The feed-forward part of a transformer layer: Linear, ReLU, dropout, Linear.

On a CPU the memory traffic between these four costs more than their matrix products do, stock dropout alone as much as
two of them. There the layer runs over blocks of rows that stay in cache and draws its dropout mask as raw random bits.
Elsewhere and in other precisions it is the four operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ivr_dist.model.dropout import Bits, compiled_seed, drawn_as_bits, drawn_seed, drop, dropout, zero_below

_ROWS = 2048
"""Rows of a block, at most: 16 MB of hidden values at the widest layers in use (2,048)."""
_VECTOR = 16
"""Numbers that a processor's widest instructions take at once."""


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
            seed = compiled_seed() if torch.compiler.is_compiling() else drawn_seed()
            out: Tensor = _Blocks.apply(x.flatten(0, -2), *weights, rate, seed)  # type: ignore[no-untyped-call]
            return out.view(x.shape)
        hidden = dropout(torch.relu(F.linear(x, self.widen_weight, self.widen_bias)), rate)
        return F.linear(hidden, self.narrow_weight, self.narrow_bias)


class _Blocks(torch.autograd.Function):
    """The layer over blocks of rows. Saved for backward: its input, and the hidden values after dropout."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        widen: Tensor,
        widen_bias: Tensor,
        narrow: Tensor,
        narrow_bias: Tensor,
        rate: float,
        seed: Any,
    ) -> Tensor:
        run = _forward_operator if torch.compiler.is_compiling() else _forward
        out, hidden = run(x, widen, widen_bias, narrow, narrow_bias, rate, seed)
        ctx.save_for_backward(x, widen, narrow, hidden)
        ctx.rate = rate
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        run = _backward_operator if torch.compiler.is_compiling() else _backward
        (gradient,) = grad_outputs
        x, widen, narrow, hidden = ctx.saved_tensors
        return *run(gradient, x, widen, narrow, hidden, ctx.rate), gradient.sum(dim=0), None, None


def _forward(
    x: Tensor, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, rate: float, seed: int
) -> tuple[Tensor, Tensor]:
    """[N, D] to [N, D], and the hidden values.

    Dropout only zeroes here; its factor 1 / (1 - p) goes into the products, where it costs nothing.
    """
    narrow, narrow_bias = _whole(narrow, 0), _whole(narrow_bias, 0)
    hidden, out = x.new_empty(len(x), len(widen)), x.new_empty(len(x), len(narrow))
    scale, bits = 1.0 / (1.0 - rate), Bits(seed)
    for rows, block, result in _in_blocks(x, hidden, out):
        torch.addmm(widen_bias, rows, widen.t(), out=block).relu_()
        if rate > 0:
            drop(block, bits.draw(block.numel()), rate)
        torch.addmm(narrow_bias, block, narrow.t(), alpha=scale, out=result)
    return out[:, : x.shape[1]].contiguous(), hidden


def _backward(
    gradient: Tensor, x: Tensor, widen: Tensor, narrow: Tensor, hidden: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the input, of `widen`, of its bias and of `narrow`."""
    columns, scale = x.shape[1], 1.0 / (1.0 - rate)
    widen, x = _whole(widen, 1), _whole(x, 1)
    to_x, to_widen, to_narrow = torch.empty_like(x), torch.empty_like(widen), torch.empty_like(narrow)
    to_widen_bias = x.new_zeros(len(widen))
    space = x.new_empty(min(len(x), _ROWS), len(widen))
    for number, (rows, block, upper, lower) in enumerate(_in_blocks(x, hidden, gradient, to_x)):
        kept = min(number, 1)
        to_narrow.addmm_(upper.t(), block, beta=kept, alpha=scale)
        inner = torch.addmm(space[: len(rows)], upper, narrow, beta=0, alpha=scale, out=space[: len(rows)])
        # Where a hidden value is 0, whether by ReLU or by dropout, nothing comes back.
        zero_below(inner, block, 0.0)
        to_widen.addmm_(inner.t(), rows, beta=kept)
        to_widen_bias += inner.sum(dim=0)
        torch.mm(inner, widen, out=lower)
    return to_x[:, :columns].contiguous(), to_widen[:, :columns].contiguous(), to_widen_bias, to_narrow


def _whole(x: Tensor, dim: int) -> Tensor:
    """With zeros behind, to a whole number of vectors in a dimension: products that give fewer columns take longer."""
    missing = -x.shape[dim] % _VECTOR
    if not missing:
        return x
    return torch.cat([x, x.new_zeros(*x.shape[:dim], missing, *x.shape[dim + 1 :])], dim=dim)


def _in_blocks(*parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """As many rows of each at a time; at least one block, which may be empty."""
    blocks = max(1, -(-len(parts[0]) // _ROWS))
    return zip(*(torch.chunk(part, blocks) for part in parts), strict=True)


# What a compiler calls and does not look into.
@torch.library.custom_op("ivr_dist::feedforward", mutates_args=())
def _forward_operator(
    x: Tensor, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, rate: float, seed: Tensor
) -> tuple[Tensor, Tensor]:
    return _forward(x, widen, widen_bias, narrow, narrow_bias, rate, int(seed))


_backward_operator = torch.library.custom_op("ivr_dist::feedforward_backward", _backward, mutates_args=())


@_forward_operator.register_fake
def _(
    x: Tensor, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, rate: float, seed: Tensor
) -> tuple[Tensor, Tensor]:
    # By the shape, since `len` would make a constant of what is unknown to a compiler.
    return x.new_empty(x.shape[0], narrow.shape[0]), x.new_empty(x.shape[0], widen.shape[0])


@_backward_operator.register_fake
def _(
    gradient: Tensor, x: Tensor, widen: Tensor, narrow: Tensor, hidden: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(widen), widen.new_empty(len(widen)), torch.empty_like(narrow)
