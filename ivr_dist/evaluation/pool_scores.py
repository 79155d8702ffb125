"""Scores of one corpus of several: predictions of heads by task and in the corpus' own ranges, and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ivr_dist.evaluation import metrics
from ivr_dist.evaluation.evaluate import Metrics, Predictions, score
from ivr_dist.evaluation.metric import Metric
from ivr_dist.evaluation.pool_metrics import HELD_OUT, skill
from ivr_dist.planning.label_scale import from_head
from ivr_dist.planning.pool_layout import CorpusLayout


def by_task(predictions: Predictions, corpus: CorpusLayout, unit: bool) -> Predictions:
    """Name what heads predicted by the tasks of a corpus, in its own ranges.

    Args:
        predictions: By head, with labels in the corpus' own ranges.
        corpus: The corpus.
        unit: Whether regression heads predict in [-1, 1].
    """
    heads = corpus.heads
    return replace(
        predictions,
        predictions={
            task: from_head(predictions.predictions[head], corpus.tasks[task], unit) for task, head in heads.items()
        },
        labels={task: predictions.labels[head] for task, head in heads.items()},
        labeled={task: predictions.labeled[head] for task, head in heads.items()},
    )


def score_corpus(predictions: Predictions, corpus: CorpusLayout, extra: Mapping[str, Metric] | None = None) -> Metrics:
    """Compute all metrics of one corpus, with the skill of each task.

    Args:
        predictions: By task, see `by_task`.
        corpus: The corpus.
        extra: The metrics of `eval.metrics`, by name.

    Returns:
        By name: `CORPUS/METRIC`, or `CORPUS/TASK/METRIC` where it has several tasks; `heldout/CORPUS/...` where it is
        held out.
    """
    scores = score(predictions, corpus.name, corpus.tasks, extra)
    for task, spec in corpus.tasks.items():
        rows = predictions.labeled[task]
        value = skill(spec, predictions.labels[task][rows], predictions.predictions[task][rows])
        prefix = metrics.prefix(corpus.name, task, corpus.tasks)
        scores[f"{prefix}/skill"] = float(value) if np.isfinite(value) else None
    return {f"{HELD_OUT}/{name}": value for name, value in scores.items()} if corpus.held_out else scores
