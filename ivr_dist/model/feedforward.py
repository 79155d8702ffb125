"""Feed-forward layer of a transformer: Linear, ReLU, dropout, Linear.

On a CPU the memory traffic between these four operations costs more than their matrix products, stock dropout alone as
much as two of them. There a training step runs by oneDNN over blocks of rows that stay in cache, and draws its dropout
mask as raw random bits. On a GPU, in other precisions, and in evaluation, where plain products have half the rounding
error, the four operations run separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ivr_dist.model.dropout import Bits, compiled_seed, drawn_as_bits, drawn_seed, drop, dropout, zero_below
from ivr_dist.model.onednn import linear, weight_gradient

_ROWS = 2048
"""Rows of a block, at most: 16 MB of hidden values at the widest layers in use (2,048)."""


class FeedForward(nn.Module):
    """narrow(dropout(ReLU(widen(x)))), on [..., D].

    The weights are parameters of this module, not of two `nn.Linear`: ZeRO-3 gathers by the module whose forward runs.

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
        alike = self.widen_weight.dtype == x.dtype and not torch.is_autocast_enabled("cpu")
        if self.training and alike and drawn_as_bits(x, rate):
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
        out: Tensor
        if torch.compiler.is_compiling():
            out, joined = _forward_operator(x, widen, widen_bias, narrow, narrow_bias, rate, seed)
            hidden = [joined]
        else:
            out, hidden = _forward(x, widen, widen_bias, narrow, narrow_bias, rate, seed)
        ctx.save_for_backward(x, widen, narrow, *hidden)
        ctx.rate = rate
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = grad_outputs
        x, widen, narrow, *hidden = ctx.saved_tensors
        if torch.compiler.is_compiling():
            gradients = _backward_operator(gradient, x, widen, narrow, hidden[0], ctx.rate)
        else:
            gradients = _backward(gradient, x, widen, narrow, hidden, ctx.rate)
        return *gradients, gradient.sum(dim=0), None, None


def _forward(
    x: Tensor, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, rate: float, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """[N, D] to [N, D], and the hidden values by block.

    Dropout only zeroes here; its factor 1 / (1 - p) goes into the narrowing weight, where it costs nothing.
    """
    narrow, bits = narrow / (1.0 - rate), Bits(seed)
    out, hidden = [], []
    for rows in _blocks(x):
        block = linear(rows, widen, widen_bias, relu=True)
        if rate > 0:
            drop(block, bits.draw(block.numel()), rate)
        hidden.append(block)
        out.append(linear(block, narrow, narrow_bias))
    return _joined(out), hidden


def _backward(
    gradient: Tensor, x: Tensor, widen: Tensor, narrow: Tensor, hidden: Sequence[Tensor], rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of the input, of `widen`, of its bias and of `narrow`."""
    gradient = gradient / (1.0 - rate)
    to_x: list[Tensor] = []
    sums: tuple[Tensor, ...] = ()
    for rows, block, upper in zip(_blocks(x), hidden, _blocks(gradient), strict=True):
        inner = linear(upper, narrow.t())
        # Hidden values that are 0, by ReLU or by dropout, have no gradient.
        zero_below(inner, block, 0.0)
        block_sums = weight_gradient(inner, rows), inner.sum(dim=0), weight_gradient(upper, block)
        sums = tuple(a.add_(b) for a, b in zip(sums, block_sums, strict=True)) if to_x else block_sums
        to_x.append(linear(inner, widen.t()))
    to_widen, to_widen_bias, to_narrow = sums
    return _joined(to_x), to_widen, to_widen_bias, to_narrow


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Split into blocks of equal numbers of rows; at least one block, which may be empty."""
    return torch.chunk(x, max(1, -(-len(x) // _ROWS)))


def _joined(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


# Opaque to the compiler.
@torch.library.custom_op("ivr_dist::feedforward", mutates_args=())
def _forward_operator(
    x: Tensor, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, rate: float, seed: Tensor
) -> tuple[Tensor, Tensor]:
    out, hidden = _forward(x, widen, widen_bias, narrow, narrow_bias, rate, int(seed))
    return out, _joined(hidden)


@torch.library.custom_op("ivr_dist::feedforward_backward", mutates_args=())
def _backward_operator(
    gradient: Tensor, x: Tensor, widen: Tensor, narrow: Tensor, hidden: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    to_x, to_widen, to_bias, to_narrow = _backward(gradient, x, widen, narrow, _blocks(hidden), rate)
    # The layout that the fake implementation declares.
    return to_x, to_widen.contiguous(), to_bias, to_narrow.contiguous()


@_forward_operator.register_fake
def _(
    x: Tensor, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, rate: float, seed: Tensor
) -> tuple[Tensor, Tensor]:
    # `x.shape[0]`, since `len` would turn a symbolic size into a constant.
    return x.new_empty(x.shape[0], narrow.shape[0]), x.new_empty(x.shape[0], widen.shape[0])


@_backward_operator.register_fake
def _(
    gradient: Tensor, x: Tensor, widen: Tensor, narrow: Tensor, hidden: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(widen), widen.new_empty(len(widen)), torch.empty_like(narrow)
