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
        """One share a task."""
        return {
            task: Share(_total(task, output, batch, step.config.loss), step.counts.labels[task])
            for task in output.predictions
        }


def _total(task: str, output: IVROutput, batch: Batch, loss: LossConfig) -> Tensor:
    predicted, truth, mask = at_least_float32(output.predictions[task]), batch.labels[task], batch.label_mask[task]
    if truth.dtype == torch.long:
        errors = F.cross_entropy(predicted, truth, reduction="none")
    elif loss.regression == "mse":
        errors = (predicted - truth).square()
    elif loss.regression == "mae":
        errors = (predicted - truth).abs()
    else:
        errors = F.huber_loss(predicted, truth.to(predicted.dtype), reduction="none")
    return (errors * mask).sum()
