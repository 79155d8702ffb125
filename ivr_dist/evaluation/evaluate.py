"""Exact evaluation: each sample is scored once, on any number of workers (decision 009)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.exclusions import NOTHING, Exclusions
from ivr_dist.errors import CorruptDataError
from ivr_dist.evaluation import metrics
from ivr_dist.evaluation.metric import Metric
from ivr_dist.evaluation.registry import score_extra
from ivr_dist.model.spec import IVROutput
from ivr_dist.runtime import collectives
from ivr_dist.shards.specs import TaskSpec

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Predictions:
    """A scored split, in data set order, equal on every rank."""

    keys: list[str]
    predictions: Mapping[str, NDArray[np.float64]]
    """By task: [N] values, or [N, C] logits."""
    labels: Mapping[str, NDArray[np.float64]]
    """By task: [N]; classes as whole numbers."""
    labeled: Mapping[str, NDArray[np.bool_]]
    """By task: [N], true where there is a label."""


def predict(
    forward: Callable[[Batch], IVROutput],
    batches: Iterable[Batch],
    samples: int,
    device: torch.device,
    excluded: Exclusions = NOTHING,
) -> Predictions:
    """Run a model over this rank's share of a split and gather the results; a collective call.

    Args:
        forward: The model in evaluation mode; called equally often on every rank.
        batches: This rank's micro-batches, as many as any other rank's; some may be empty.
        samples: Size of the whole split.
        device: The model's device.
        excluded: Samples of the split that are left out: not among the batches, nor in the result.

    Raises:
        CorruptDataError: A sample was scored more than once or not at all.
    """
    parts = []
    with torch.no_grad():
        for batch in batches:
            output = forward(batch.to(device))
            parts.append(
                _Part(
                    positions=batch.positions.numpy(),
                    keys=batch.keys,
                    predictions={task: value.double().cpu().numpy() for task, value in output.predictions.items()},
                    labels={task: value.double().numpy() for task, value in batch.labels.items()},
                    labeled={task: value.numpy() for task, value in batch.label_mask.items()},
                )
            )
    return _joined([part for rank in collectives.gather(parts) for part in rank], excluded.kept(samples))


@dataclass(frozen=True)
class _Part:
    """One micro-batch of one rank, scored; numpy arrays, which travel between ranks."""

    positions: NDArray[np.int64]
    keys: tuple[str, ...]
    predictions: dict[str, NDArray[np.float64]]
    labels: dict[str, NDArray[np.float64]]
    labeled: dict[str, NDArray[np.bool_]]


def _joined(parts: list[_Part], expected: NDArray[np.int64]) -> Predictions:
    """Join all parts in data set order; refuse samples that are missing or scored twice."""
    positions = np.concatenate([part.positions for part in parts])
    if not np.array_equal(np.sort(positions), expected):
        raise CorruptDataError(
            f"evaluation saw {len(np.unique(positions))} of {len(expected)} samples in {len(positions)} predictions",
            remedy="report this: each sample must be scored exactly once",
        )
    order = np.argsort(positions)
    keys = [key for part in parts for key in part.keys]
    tasks = list(parts[0].predictions)
    return Predictions(
        keys=[keys[i] for i in order],
        predictions={task: np.concatenate([part.predictions[task] for part in parts])[order] for task in tasks},
        labels={task: np.concatenate([part.labels[task] for part in parts])[order] for task in tasks},
        labeled={task: np.concatenate([part.labeled[task] for part in parts])[order] for task in tasks},
    )


def score(
    predictions: Predictions, corpus: str, tasks: Mapping[str, TaskSpec], extra: Mapping[str, Metric] | None = None
) -> Metrics:
    """Compute all metrics of method section 4, and those of the config.

    Args:
        predictions: The scored split.
        corpus: Name of the corpus.
        tasks: Tasks by name.
        extra: The metrics of `eval.metrics`, by name.

    Returns:
        By name: `corpus/metric`, or `corpus/task/metric` where the corpus has several tasks. A metric that is not
        defined (the correlation of a constant, a task without labels) is None.
    """
    scores: Metrics = {}
    for task, spec in tasks.items():
        prefix = metrics.prefix(corpus, task, tasks)
        rows = predictions.labeled[task]
        truth, predicted = predictions.labels[task][rows], predictions.predictions[task][rows]
        values = metrics.score(spec, truth, predicted) | score_extra(extra or {}, spec, truth, predicted)
        for name, value in values.items():
            scores[f"{prefix}/{name}"] = float(value) if np.isfinite(value) else None
    return scores
