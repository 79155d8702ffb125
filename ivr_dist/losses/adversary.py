"""Modality adversary: trains private codes to reveal the modality to a discriminator, and invariant codes to hide it.

Additive-margin softmax over the cosines of a discriminator behind a gradient reversal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.term import BuiltInTerm, MicroStep, Share
from ivr_dist.model.numerics import at_least_float32
from ivr_dist.model.spec import IVROutput

PENALTY = 0.01
"""Weight of the class weights' squared norm, once for the shared and once for the private codes."""


class AdversaryTerm(BuiltInTerm):
    """Mean over the pairs of a sample and a modality it has, with the penalty of the discriminator's weights."""

    name = "adversary"
    section = "loss.adversary"
    needs = ("logits_shared", "logits_private", "class_penalty")

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Share:
        """The sum for both kinds of codes."""
        present = {name: batch.modalities[name].present for name in output.logits_shared}
        form = step.config.loss.adversary
        both = adversary([output.logits_shared, output.logits_private], present, form.scale, form.margin)
        # The penalty does not depend on the batch: each rank and micro-step adds an equal share, also empty ones.
        assert output.class_penalty is not None
        penalty = 2 * PENALTY * output.class_penalty / (step.world * step.layout.accumulation)
        return Share(both, step.counts.codes, penalty)


def adversary(
    codes: Sequence[Mapping[str, Tensor]], present: Mapping[str, Tensor], scale: float, margin: float
) -> Tensor:
    """Sum over samples and modalities of -log softmax(s (cos - margin at the true class)), in float32 at least.

    Args:
        codes: Of each kind of code, the cosines by modality, [B, 3].
        present: By modality, [B] bool: samples that have it; others do not count.
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
