"""Adversary: invariant codes should not give their modality away, private codes should (additive-margin softmax)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.model.numerics import at_least_float32

PENALTY = 0.01
"""Weight of the class weights' squared norm, once for the shared and once for the private codes."""


def adversary(
    codes: Sequence[Mapping[str, Tensor]], present: Mapping[str, Tensor], scale: float, margin: float
) -> Tensor:
    """Sum over samples and modalities of -log softmax(s (cos - margin at the true class)), in float32 at least.

    Args:
        codes: Of each kind of code, the cosines by modality, [B, 3].
        present: By modality, [B] bool; other samples do not count.
        scale: s.
        margin: Subtracted from the true class's cosine.
    """
    names = [name for cosines in codes for name in cosines]
    rows = at_least_float32(torch.cat([cosines[name] for cosines in codes for name in cosines]))
    mask = torch.cat([present[name] for name in names])
    labels = torch.cat([torch.full_like(present[name], MODALITIES.index(name), dtype=torch.long) for name in names])
    reduced = rows - margin * F.one_hot(labels, len(MODALITIES))
    losses = F.cross_entropy(scale * reduced, labels, reduction="none")
    return (losses * mask).sum()
