"""Ordered classes that a regression head predicts (zero-shot): equal parts of its range stand for the classes."""

from __future__ import annotations

import numpy as np

from ivr_dist.evaluation.metrics import Classes, Floats
from ivr_dist.shards.specs import TaskSpec


def is_by_regression(task: TaskSpec, prediction: Floats) -> bool:
    """Whether predictions of a classification are values [N] of a regression head, instead of logits [N, C]."""
    return task.type == "classification" and prediction.ndim == 1


def class_of(values: Floats, classes: int) -> Classes:
    """Class of each value in [-1, 1], which is divided into equal parts; values outside are of the outer classes."""
    return np.clip(np.floor((values + 1.0) * (classes / 2.0)), 0, classes - 1).astype(np.int64)


def as_logits(values: Floats, classes: int) -> Floats:
    """Logits [N, C] that choose the class of each value; not finite where the value is not."""
    finite = np.isfinite(values)
    logits = np.eye(classes)[class_of(np.where(finite, values, 0.0), classes)]
    logits[~finite] = np.nan
    return logits
