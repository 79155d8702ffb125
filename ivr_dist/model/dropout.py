"""Dropout whose masks cost little on a CPU.

Stock dropout draws a Bernoulli number for each value there, which takes longer than the matrix products around it. Here
a value is dropped where random bits, read as a float32, lie at or below a threshold: one word decides about two values,
and one comparison both decides and zeroes. Elsewhere, in other precisions and under `torch.compile` it is
`F.dropout`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_DRAWS = 1 << 32
_NANS = (1 << 23) - 1
"""Bit patterns of one sign that are not numbers; no comparison finds them below a threshold."""
_MOST = 0.49
"""Rates up to this have their threshold among the negative numbers."""


class Dropout(nn.Module):
    """Zero each value with probability `rate` while training, and divide the others by 1 - rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        if not self.training or self.rate == 0:
            return x
        if drawn_as_bits(x, self.rate):
            out: Tensor = _Dropped.apply(x, self.rate)  # type: ignore[no-untyped-call]
            return out
        return F.dropout(x, self.rate)

    def extra_repr(self) -> str:
        """The rate, where the module is printed."""
        return f"rate={self.rate}"


def drawn_as_bits(x: Tensor, rate: float) -> bool:
    """Whether masks for `x` are drawn as raw bits."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and rate <= _MOST and not torch.compiler.is_compiling()


def random_bits(count: int) -> Tensor:
    """Bits that decide about `count` values: int32, one word for two values.

    16 bits decide about a value: the words as they are about the first half of the values, the words moved by 16 bits
    about the second half, so that no deciding bits are shared. Torch's global generator gives the seed and numpy's
    SFC64 the words, in half of the time that the former would take.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.SFC64(seed).random_raw((count + 3) // 4)
    return torch.from_numpy(words.view(np.int32))


@cache
def drop_threshold(rate: float) -> float:
    """The float32 at or below which random bits lie with probability `rate`, up to 0.49; exact to 2^-16.

    In the order of the numbers, the bit patterns from that of -infinity on come first.
    """
    pattern = _DRAWS - _NANS - round(rate * _DRAWS)
    return float(torch.tensor([pattern - _DRAWS], dtype=torch.int64).to(torch.int32).view(torch.float32))


def zero_below(x: Tensor, bits: Tensor, threshold: float) -> None:
    """Set `x` to 0, in place, where `bits` of the same shape are at or below `threshold`."""
    torch.ops.aten.threshold_backward.grad_input(x, bits, threshold, grad_input=x)


def drop(x: Tensor, bits: Tensor, rate: float) -> Tensor:
    """Set the values of contiguous `x` that `random_bits` decides against to 0, in place."""
    values, threshold, half = x.view(-1), drop_threshold(rate), (x.numel() + 1) // 2
    zero_below(values[:half], bits.view(torch.float32)[:half], threshold)
    zero_below(values[half:], (bits << 16).view(torch.float32)[: x.numel() - half], threshold)
    return x


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        bits = random_bits(x.numel())
        ctx.save_for_backward(bits)
        ctx.rate = rate
        return drop((x / (1 - rate)).contiguous(), bits, rate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (bits,) = ctx.saved_tensors
        return drop((gradient / (1 - ctx.rate)).contiguous(), bits, ctx.rate), None
