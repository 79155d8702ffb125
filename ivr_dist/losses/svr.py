"""Sequential variation regularization: codes should vary little from step to step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ivr_dist.model.layers import wide

_EPSILON = 1e-10


def variation(codes: Sequence[Tensor], pairs: Tensor, kind: str, temperature: float) -> Tensor:
    """Sum over neighbouring valid steps of the variation of one modality's codes, in float32 at least.

    Args:
        codes: One or more codes, [N, H] each, of the same N valid steps.
        pairs: [P] positions n such that steps n and n + 1 are neighbours.
        kind: `tv_l1`: mean over widths of |c_{t+1} - c_t|, mean over codes (total variation in one dimension). `l2`:
            the same with squares. `js`: Jensen-Shannon divergence, natural logarithm, of the softmax over all codes
            side by side, as in the released code.
        temperature: Of that softmax.
    """
    if kind == "js":
        joined = torch.softmax(wide(torch.cat(list(codes), dim=-1)) / temperature, dim=-1)
        return _divergence(joined.index_select(0, pairs), joined.index_select(0, pairs + 1)).sum()
    stacked = wide(torch.stack(list(codes)))
    change = stacked.index_select(1, pairs + 1) - stacked.index_select(1, pairs)
    size = change.abs() if kind == "tv_l1" else change.square()
    return size.mean(dim=-1).mean(dim=0).sum()


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """JSD of distributions in the last dimension, with 1e-10 added inside the Kullback-Leibler terms."""
    p, q = p + _EPSILON, q + _EPSILON
    middle = ((p + q) / 2).log()
    return 0.5 * ((p * (p.log() - middle)).sum(dim=-1) + (q * (q.log() - middle)).sum(dim=-1))
