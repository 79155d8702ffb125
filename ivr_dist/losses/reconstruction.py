"""Reconstruction: the sum of both codes must keep the content of the encoded steps."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.step_counts import nonzero_counts, over
from ivr_dist.losses.term import BuiltInTerm, MicroStep, Share
from ivr_dist.model.numerics import at_least_float32
from ivr_dist.model.spec import IVROutput


class ReconstructionTerm(BuiltInTerm):
    """Mean squared error over valid steps and widths, mean over the modalities that the global batch has."""

    name = "reconstruction"
    section = "loss.reconstruction"
    needs = ("encoded", "reconstructed")

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Share:
        """The sum of the modalities' means."""
        errors = []
        for name, target in output.encoded.items():
            error = (
                F.mse_loss(at_least_float32(output.reconstructed[name]), at_least_float32(target), reduction="sum")
                / target.shape[-1]
            )
            errors.append(over(error, step.counts.steps[name]))
        return Share(torch.stack(errors).sum(), nonzero_counts(step.counts.steps.values()))
