"""Task losses: mean over the labeled samples of the global batch, one value for each task."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ivr_dist.config import LossConfig
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.term import BuiltInTerm, MicroStep, Share
from ivr_dist.model.numerics import at_least_float32
from ivr_dist.model.spec import IVROutput


class TaskTerm(BuiltInTerm):
    """Cross entropy of classifications; squared, absolute or Huber error of regressions (`loss.regression`)."""

    name = "task"
    section = "loss"
    needs = ("predictions",)

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> dict[str, Share]:
        """One share a task; in a pool one for each task of each corpus."""
        totals = {head: _errors(head, output, batch, step.config.loss) for head in output.predictions}
        shares = {}
        for label in step.layout.labels(output.predictions):
            errors = totals[label.head]
            if step.layout.corpora:
                errors = errors * (batch.corpus == label.corpus)
            shares[label.name] = Share(errors.sum(), step.counts.labels[label.name])
        return shares


def _errors(head: str, output: IVROutput, batch: Batch, loss: LossConfig) -> Tensor:
    """[B] error of each sample, times the weight of its label; 0 where it has none."""
    predicted, truth, mask = at_least_float32(output.predictions[head]), batch.labels[head], batch.label_mask[head]
    if truth.dtype == torch.long:
        errors = F.cross_entropy(predicted, truth, reduction="none")
    elif loss.regression == "mse":
        errors = (predicted - truth).square()
    elif loss.regression == "mae":
        errors = (predicted - truth).abs()
    else:
        errors = F.huber_loss(predicted, truth.to(predicted.dtype), reduction="none")
    errors = errors * mask
    return errors * batch.label_weight[head] if head in batch.label_weight else errors
