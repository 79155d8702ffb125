"""Metrics of sentiment, humor and emotion tasks, under names that state which convention of the field they follow.

Pure functions over float64 arrays: `truth` [N] and `prediction` [N], or [N, C] logits, always in this order. A metric
that is not defined (no samples, the correlation of a constant) is nan, never an exception; JSON holds null for it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ivr_dist.shards.specs import TaskSpec

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]

LOWER_IS_BETTER = frozenset({"mae", "loss"})

SIMS_EDGES_2 = (0.0,)
SIMS_EDGES_3 = (-0.1, 0.1)
SIMS_EDGES_5 = (-0.7, -0.1, 0.1, 0.7)
EMOTION_PRESENT = 0.5


def prefix(corpus: str, task: str, tasks: Collection[str]) -> str:
    """Return the prefix of metric names: the corpus, and the task if the corpus has several."""
    return corpus if len(tasks) == 1 else f"{corpus}/{task}"


def names(corpus: str, tasks: Mapping[str, TaskSpec]) -> list[str]:
    """List the full names of all metrics of a corpus."""
    full_names = []
    for task, spec in tasks.items():
        shape = (1,) if spec.type == "regression" else (1, spec.classes or 1)
        full_names += [f"{prefix(corpus, task, tasks)}/{name}" for name in score(spec, np.zeros(1), np.zeros(shape))]
    return full_names


def score(task: TaskSpec, truth: Floats, prediction: Floats) -> dict[str, float]:
    """Compute all metrics of a task over its labeled samples.

    Args:
        task: Its type and scale select the metrics.
        truth: [N] labels; classes as whole numbers.
        prediction: [N] values of a regression task, or [N, C] logits of a classification task.

    Returns:
        By name: regression `mae, corr`, and on scale `mosi` also `acc7, acc5, acc3, acc2_has0, f1_has0, acc2_non0,
        f1_non0`, on `sims` `acc2, f1, acc3, acc5`, on `emotion` `wacc_presence, f1_presence`; classification `accuracy,
        f1_weighted`, and on `emotion` `wacc_presence`. All nan where a prediction is not finite.
    """
    finite = bool(np.isfinite(prediction).all())
    truth, prediction = np.asarray(truth, np.float64), np.nan_to_num(np.asarray(prediction, np.float64))
    if task.type == "classification":
        values = _classification(truth, prediction, task.scale)
    elif task.scale == "mosi":
        values = _mosi(truth, prediction)
    elif task.scale == "sims":
        values = _sims(truth, prediction)
    elif task.scale == "emotion":
        values = _emotion(truth, prediction)
    else:
        values = {"mae": mae(truth, prediction), "corr": corr(truth, prediction)}
    return values if finite else dict.fromkeys(values, math.nan)


def _mosi(truth: Floats, prediction: Floats) -> dict[str, float]:
    """Sentiment in [-3, 3] (MOSI, MOSEI): `has0` is negative against y >= 0, `non0` leaves samples of y = 0 out."""
    has0 = _integers(truth >= 0), _integers(prediction >= 0)
    clear = truth != 0
    non0 = _integers(truth[clear] > 0), _integers(prediction[clear] > 0)
    return {
        "mae": mae(truth, prediction),
        "corr": corr(truth, prediction),
        "acc7": rounded_accuracy(truth, prediction, 3.0),
        "acc5": rounded_accuracy(truth, prediction, 2.0),
        "acc3": rounded_accuracy(truth, prediction, 1.0),
        "acc2_has0": accuracy(*has0),
        "f1_has0": f1_weighted(*has0),
        "acc2_non0": accuracy(*non0),
        "f1_non0": f1_weighted(*non0),
    }


def _sims(truth: Floats, prediction: Floats) -> dict[str, float]:
    """Sentiment in [-1, 1] (CH-SIMS): both sides clipped first, 0 counts as negative."""
    truth, prediction = np.clip(truth, -1.0, 1.0), np.clip(prediction, -1.0, 1.0)
    two, three, five = (
        (binned(truth, edges), binned(prediction, edges)) for edges in (SIMS_EDGES_2, SIMS_EDGES_3, SIMS_EDGES_5)
    )
    return {
        "mae": mae(truth, prediction),
        "corr": corr(truth, prediction),
        "acc2": accuracy(*two),
        "f1": f1_weighted(*two),
        "acc3": accuracy(*three),
        "acc5": accuracy(*five),
    }


def _emotion(truth: Floats, prediction: Floats) -> dict[str, float]:
    """Intensity of one emotion in [0, 3] (MOSEI): present where the label is above 0, predicted from 0.5 on.

    Labels are averages over annotators, so any of them above 0 is a vote for presence; a prediction is a mean that is
    hardly ever exactly 0, so it counts as present from halfway to the scale's first grade.
    """
    presence = _integers(truth > 0), _integers(prediction >= EMOTION_PRESENT)
    return {
        "mae": mae(truth, prediction),
        "corr": corr(truth, prediction),
        "wacc_presence": weighted_accuracy(*presence),
        "f1_presence": f1_weighted(*presence),
    }


def _classification(truth: Floats, logits: Floats, scale: str) -> dict[str, float]:
    classes = _integers(truth), _integers(np.argmax(logits, axis=1)) if len(logits) else _integers(truth[:0])
    values = {"accuracy": accuracy(*classes), "f1_weighted": f1_weighted(*classes)}
    if scale == "emotion":
        values["wacc_presence"] = weighted_accuracy(*classes)
    return values


def mae(truth: Floats, prediction: Floats) -> float:
    """Mean absolute error, nothing clipped."""
    return float(np.abs(truth - prediction).mean()) if len(truth) else math.nan


def corr(truth: Floats, prediction: Floats) -> float:
    """Pearson's correlation; nan for fewer than two samples or where either side is constant."""
    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(prediction) == 0:
        return math.nan
    # Scaled before squaring, so that neither tiny nor huge values leave the range of float64.
    x, y = (values / np.ptp(values) for values in (truth, prediction))
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def rounded_accuracy(truth: Floats, prediction: Floats, limit: float) -> float:
    """Share of samples equal after clipping to [-limit, limit] and rounding halves to even."""
    return accuracy(_rounded(truth, limit), _rounded(prediction, limit))


def binned(values: Floats, edges: tuple[float, ...]) -> Classes:
    """Class of each value: how many edges are below it; a value on an edge belongs to the lower class."""
    return _integers(np.digitize(values, edges, right=True))


def accuracy(truth: Classes, prediction: Classes) -> float:
    """Share of samples whose class is right."""
    return float((truth == prediction).mean()) if len(truth) else math.nan


def f1_weighted(truth: Classes, prediction: Classes) -> float:
    """F1 of each class that occurs in the truth, weighted by how often it does.

    A class's F1 is 2 TP / (2 TP + FP + FN); classes that are only ever predicted have weight 0.
    """
    if not len(truth):
        return math.nan
    total = 0.0
    for label in np.unique(truth):
        actual, claimed = truth == label, prediction == label
        # With at least one actual sample the denominator, actual + claimed, is never 0.
        total += actual.sum() * 2.0 * (actual & claimed).sum() / (actual.sum() + claimed.sum())
    return float(total / len(truth))


def weighted_accuracy(truth: Classes, prediction: Classes) -> float:
    """Mean recall of the classes that occur: (TP / P + TN / N) / 2 when both do."""
    recalls = [float((prediction[truth == label] == label).mean()) for label in np.unique(truth)]
    return sum(recalls) / len(recalls) if recalls else math.nan


def better(metric: str, new: float, best: float | None, lower_is_better: Collection[str] = LOWER_IS_BETTER) -> bool:
    """Whether `new` is better than `best`, in the direction of the metric.

    Args:
        metric: Its name, with or without a path before it (`mosi/mae`).
        new: A value that is nan is never better.
        best: The best so far; None or nan when there is none.
        lower_is_better: Names of the metrics where smaller is better, without a path.
    """
    if math.isnan(new):
        return False
    if best is None or math.isnan(best):
        return True
    return new < best if metric.rpartition("/")[2] in lower_is_better else new > best


def _rounded(values: Floats, limit: float) -> Classes:
    return _integers(np.round(np.clip(values, -limit, limit)))


def _integers(values: NDArray[Any]) -> Classes:
    return np.asarray(values).astype(np.int64)
