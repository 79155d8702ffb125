"""Scores of one corpus of several: predictions of heads by task and in the corpus' own ranges, and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ivr_dist.evaluation import metrics
from ivr_dist.evaluation.evaluate import Metrics, Predictions, score
from ivr_dist.evaluation.metric import Metric
from ivr_dist.evaluation.metrics import Floats
from ivr_dist.evaluation.ordered_classes import as_logits, is_by_regression
from ivr_dist.evaluation.pool_metrics import HELD_OUT, skill
from ivr_dist.planning.label_scale import from_head, to_head
from ivr_dist.planning.pool_layout import CorpusLayout, PoolLayout


def by_task(predictions: Predictions, corpus: CorpusLayout, layout: PoolLayout) -> Predictions:
    """Name what heads predicted by the tasks of a corpus, in its own ranges; ordered classes by regression in [-1, 1].

    Args:
        predictions: By head, with labels in the corpus' own ranges.
        corpus: The corpus.
        layout: Layout of the model, with what its heads predict.
    """
    heads = corpus.heads

    def in_own_range(task: str, head: str) -> Floats:
        values, form = predictions.predictions[head], layout.heads[head]
        if is_by_regression(corpus.tasks[task], values):
            return to_head(values, form, True)
        return from_head(values, corpus.tasks[task], layout.scale == "unit")

    return replace(
        predictions,
        predictions={task: in_own_range(task, head) for task, head in heads.items()},
        labels={task: predictions.labels[head] for task, head in heads.items()},
        labeled={task: predictions.labeled[head] for task, head in heads.items()},
    )


def score_corpus(predictions: Predictions, corpus: CorpusLayout, extra: Mapping[str, Metric] | None = None) -> Metrics:
    """Compute all metrics of one corpus, with the skill of each task.

    Ordered classes that a regression head predicts also have `corr`, of its values and the number of the class.

    Args:
        predictions: By task, see `by_task`.
        corpus: The corpus.
        extra: The metrics of `eval.metrics`, by name.

    Returns:
        By name: `CORPUS/METRIC`, or `CORPUS/TASK/METRIC` where it has several tasks; `heldout/CORPUS/...` where it is
        held out.
    """
    chosen = {
        task: as_logits(values, corpus.tasks[task].classes or 1)
        if is_by_regression(corpus.tasks[task], values)
        else values
        for task, values in predictions.predictions.items()
    }
    scores = score(replace(predictions, predictions=chosen), corpus.name, corpus.tasks, extra)
    for task, spec in corpus.tasks.items():
        rows = predictions.labeled[task]
        truth, values = predictions.labels[task][rows], predictions.predictions[task][rows]
        own = {"skill": skill(spec, truth, chosen[task][rows])}
        if is_by_regression(spec, values):
            own["corr"] = metrics.corr(truth, values) if np.isfinite(values).all() else float("nan")
        prefix = metrics.prefix(corpus.name, task, corpus.tasks)
        scores |= {f"{prefix}/{name}": float(value) if np.isfinite(value) else None for name, value in own.items()}
    return {f"{HELD_OUT}/{name}": value for name, value in scores.items()} if corpus.held_out else scores
