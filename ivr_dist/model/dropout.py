"""Dropout with fast random masks on a CPU.

On a CPU, stock dropout draws a Bernoulli number per value, which takes longer than the matrix products around it. Here
a value is dropped if random bits, read as a float32, are at or below a threshold: one word decides about two values,
and one comparison both decides and zeroes. Under `torch.compile` a custom operator computes the mask from such bits,
since the compiler's own random numbers cost even more; the compiler fuses the zeroing with the operations around it.
Elsewhere and in other precisions it is `F.dropout`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor, nn
from torch.nn import functional as F

from ivr_dist.config import ModelConfig

_DRAWS = 1 << 32
_NANS = (1 << 23) - 1
"""Bit patterns of one sign that are not numbers; no comparison finds them below a threshold."""
_MOST = 0.49
"""Largest rate whose threshold is a negative number."""


class Dropout(nn.Module):
    """Zero each value with probability `rate` while training, and divide the others by 1 - rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout while training; the shape stays the same."""
        return dropout(x, self.rate) if self.training else x

    def extra_repr(self) -> str:
        """Return the rate, for `repr`."""
        return f"rate={self.rate}"


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero values of `x`, of any shape, at `rate` in 0 to 1, and divide the others by 1 - rate."""
    if rate == 0:
        return x
    if not drawn_as_bits(x, rate):
        return F.dropout(x, rate)
    if torch.compiler.is_compiling():
        return torch.where(_dropped(compiled_seed(), x.numel(), rate).view(x.shape), 0.0, x / (1 - rate))
    kept = torch.full(x.shape, 1 / (1 - rate))
    return x * drop(kept, Bits(drawn_seed()).draw(x.numel()), rate)


def drawn_as_bits(x: Tensor, rate: float) -> bool:
    """Whether masks for `x` are drawn as raw bits."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and rate <= _MOST


def drawn_seed() -> int:
    """Draw a seed for `Bits` from torch's global generator."""
    return int(torch.empty((), dtype=torch.int64).random_())


def compiled_seed() -> Tensor:
    """Draw a seed for `Bits` inside a compiled function: an int64 scalar, drawn again at each step.

    An operator that draws needs it as an argument: calls with equal arguments are merged into a single call.
    """
    return torch.randint(1 << 62, ())


class Bits:
    """Stream of random bits from numpy's SFC64, twice as fast as torch's generator."""

    def __init__(self, seed: int) -> None:
        self._stream = np.random.SFC64(_Seed(seed))  # type: ignore[arg-type]

    def draw(self, count: int) -> Tensor:
        """Draw the bits that decide about `count` values: [(count + 1) // 2] float32, one word for two values.

        Each value uses 16 bits: the first half of the values those of the words, the second half those of the words
        shifted by 16 bits, so that no bits are shared.
        """
        return torch.from_numpy(self.words(count).view(np.float32)[: (count + 1) // 2])

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Draw 16 random bits for each of `count` values."""
        return self._stream.random_raw((count + 3) // 4)


class _Seed(ISeedSequence):
    """Seed sequence of SFC64, which mixes seeds itself; five times as fast as numpy's own sequence."""

    def __init__(self, seed: int) -> None:
        self.words = np.array([seed, 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9], dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[np.uint64]:
        """The three words of SFC64's state."""
        assert n_words == len(self.words) and dtype is np.uint64
        return self.words


@torch.library.custom_op("ivr_dist::dropped", mutates_args=())
def _dropped(seed: Tensor, count: int, rate: float) -> Tensor:
    """[count] bool, true with probability `rate`, exact to 2^-16."""
    draws = torch.from_numpy(Bits(int(seed)).words(count).view(np.int16)[:count])
    return draws < round(rate * (1 << 16)) - (1 << 15)


@_dropped.register_fake
def _(seed: Tensor, count: int, rate: float) -> Tensor:
    return seed.new_empty(count, dtype=torch.bool)


@cache
def drop_threshold(rate: float) -> float:
    """Return the float32 threshold that random bits do not exceed with probability `rate`, up to 0.49; exact to 2^-16.

    In the order of the numbers, the bit patterns from that of -infinity on come first.
    """
    return float(torch.tensor([_pattern(rate) - _DRAWS], dtype=torch.int64).to(torch.int32).view(torch.float32))


def _pattern(rate: float) -> int:
    return _DRAWS - _NANS - round(rate * _DRAWS)


def zero_below(x: Tensor, bits: Tensor, threshold: float) -> None:
    """Set `x` to 0, in place, where `bits` of the same shape are at or below `threshold`."""
    torch.ops.aten.threshold_backward.grad_input(x, bits, threshold, grad_input=x)


def drop(x: Tensor, bits: Tensor, rate: float) -> Tensor:
    """Set the values of contiguous `x` that the bits of `Bits.draw` drop to 0, in place."""
    threshold, values = drop_threshold(rate), x.view(-1)
    first, second = values.tensor_split((len(bits),))
    zero_below(first, bits, threshold)
    zero_below(second, (bits.view(torch.int32) << 16).view(torch.float32)[: len(second)], threshold)
    return x


_DROPOUT = {"encoder": 0.1, "cross": 0.2, "gate": 0.4, "head": 0.6, "discriminator": 0.6}


def dropout_rates(config: ModelConfig) -> dict[str, float]:
    """Return dropout rates by site: the config's single rate, or those of the published method."""
    return {site: rate if config.dropout is None else config.dropout for site, rate in _DROPOUT.items()}
