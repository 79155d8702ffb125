"""Label scale: linear maps between the range of a task and [-1, 1], in which heads of a pool predict."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ivr_dist.shards.specs import TaskSpec


def to_head(labels: npt.NDArray[np.float64], task: TaskSpec, unit: bool) -> npt.NDArray[np.float64]:
    """Map labels of a task to the range in which its head predicts: [-1, 1] for a regression on unit scale."""
    if not unit or task.type != "regression" or task.low is None or task.high is None:
        return labels
    return (labels - task.low) * (2.0 / (task.high - task.low)) - 1.0


def from_head(predictions: npt.NDArray[np.float64], task: TaskSpec, unit: bool) -> npt.NDArray[np.float64]:
    """Map predictions of a head to the range of a task, the inverse of `to_head`; logits stay."""
    if not unit or task.type != "regression" or task.low is None or task.high is None:
        return predictions
    return (predictions + 1.0) * ((task.high - task.low) / 2.0) + task.low
