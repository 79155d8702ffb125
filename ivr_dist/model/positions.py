"""Sinusoidal position encodings."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ivr_dist.model.padded_steps import SequenceLayout

_TABLE = 64
"""Lengths of cached tables are multiples of this, so that few tables serve many lengths."""


def with_positions(steps: Tensor, layout: SequenceLayout) -> Tensor:
    """Add sinusoidal positions (Vaswani et al. 2017, section 3.5) to [N, H]; H must be even."""
    length = _TABLE * -(-layout.mask.shape[1] // _TABLE)
    # The compiler traces through the cache, with a warning.
    positions = _positions.__wrapped__ if torch.compiler.is_compiling() else _positions
    table: Tensor = positions(length, steps.shape[1], steps.dtype, steps.device)
    return steps + table.index_select(0, layout.position)


@lru_cache(maxsize=64)
def _positions(length: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Compute [length, width] alternating sines and cosines."""
    wider = torch.promote_types(dtype, torch.float32)
    rate = torch.exp(torch.arange(0, width, 2, device=device, dtype=wider) * (-math.log(10_000.0) / width))
    angle = torch.arange(length, device=device)[:, None] * rate
    return torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).flatten(1).to(dtype)
