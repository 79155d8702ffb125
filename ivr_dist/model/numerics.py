"""Numerics of the model: precision of sums, unit norms, gradient reversal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Convert to float32 unless it is float32 or float64: sums and norms lose too much precision in half types."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def unit_norm(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Divide by the Euclidean norm over the last dimension; 0 stays 0, with a finite gradient."""
    square = at_least_float32(x).square().sum(dim=-1, keepdim=True)
    return x * torch.rsqrt(square + epsilon).to(x.dtype)


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
