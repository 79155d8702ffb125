"""Reconstruction: the sum of both codes must keep the content of the encoded steps."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.step_counts import corpus_weights, nonzero_counts, over
from ivr_dist.losses.term import BuiltInTerm, MicroStep, Share
from ivr_dist.model.numerics import at_least_float32
from ivr_dist.model.spec import IVROutput


class ReconstructionTerm(BuiltInTerm):
    """Mean squared error over valid steps and widths, mean over the modalities that the global batch has."""

    name = "reconstruction"
    section = "loss.reconstruction"
    needs = ("encoded", "reconstructed")

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Share:
        """The sum of the modalities' means; in a pool by corpus, each with its share of the samples."""
        if step.layout.corpora:
            return _by_corpus(output, batch, step)
        errors = []
        for name, target in output.encoded.items():
            error = (
                F.mse_loss(at_least_float32(output.reconstructed[name]), at_least_float32(target), reduction="sum")
                / target.shape[-1]
            )
            errors.append(over(error, step.counts.steps[name]))
        return Share(torch.stack(errors).sum(), nonzero_counts(step.counts.steps.values()))


def _by_corpus(output: IVROutput, batch: Batch, step: MicroStep) -> Share:
    """Without it, a corpus of thirty frames a second would outvote one of words."""
    weights = corpus_weights(step.counts.steps, step.counts.shares)
    totals = []
    for name, target in output.encoded.items():
        difference = at_least_float32(output.reconstructed[name]) - at_least_float32(target)
        weight = weights[name].to(difference.device, difference.dtype).index_select(0, step.corpora(batch, name))
        totals.append((difference.square() * weight[:, None]).sum() / target.shape[-1])
    return Share(torch.stack(totals).sum(), step.counts.shares.new_ones(()))
