"""Scores of several corpora: each in its own range and by itself, and means over corpora that can be averaged.

skill = 1 - MAE / MAE of the split's median, or (accuracy - majority) / (1 - majority): 0 is no better than a constant,
1 is perfect. `macro/skill` is the mean over corpora of the means over their tasks, and so are `macro/corr` and
`macro/accuracy` where these are defined. Corpora that are held out have names `heldout/CORPUS/...` and do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ivr_dist.evaluation import metrics
from ivr_dist.evaluation.metrics import Floats
from ivr_dist.planning.pool_layout import CorpusLayout
from ivr_dist.shards.specs import TaskSpec

MACRO = "macro"
HELD_OUT = "heldout"
SKILL = f"{MACRO}/skill"
"""The metric that picks the best checkpoint of a pool by default."""
_AVERAGED = ("corr", "accuracy")


def skill(task: TaskSpec, truth: Floats, prediction: Floats) -> float:
    """Compute the skill of predictions over the best constant; nan where the constant is perfect or nothing is labeled.

    Args:
        task: The task.
        truth: [N] labels; classes as whole numbers.
        prediction: [N] values of a regression, or [N, C] logits of a classification.
    """
    if not len(truth) or not np.isfinite(prediction).all():
        return float("nan")
    if task.type == "regression":
        constant = metrics.mae(truth, np.full_like(truth, np.median(truth)))
        return 1.0 - metrics.mae(truth, prediction) / constant if constant > 0 else float("nan")
    classes = truth.astype(np.int64)
    majority = float(np.bincount(classes).max() / len(classes))
    accuracy = metrics.accuracy(classes, prediction.argmax(axis=1))
    return (accuracy - majority) / (1.0 - majority) if majority < 1 else float("nan")


def macro(scores: Mapping[str, float | None], corpora: Sequence[CorpusLayout]) -> dict[str, float | None]:
    """Average over the corpora that are trained on and were scored.

    Args:
        scores: All metrics of a split, by name.
        corpora: The corpora of the run.

    Returns:
        `macro/skill`, `macro/corr` and `macro/accuracy`, as far as a corpus has them.
    """
    averages: dict[str, float | None] = {}
    for metric in ("skill", *_AVERAGED):
        means = []
        for corpus in corpora:
            names = [f"{metrics.prefix(corpus.name, task, corpus.tasks)}/{metric}" for task in corpus.tasks]
            values = [value for name in names if (value := scores.get(name)) is not None]
            if values and not corpus.held_out:
                means.append(sum(values) / len(values))
        if means:
            averages[f"{MACRO}/{metric}"] = sum(means) / len(means)
    return averages


def metric_names(corpora: Sequence[CorpusLayout], extra: Sequence[str] = ()) -> list[str]:
    """List the full names of all metrics that a split of a pool may have, without the split."""
    names: list[str] = [f"{MACRO}/{metric}" for metric in ("skill", *_AVERAGED)]
    for corpus in corpora:
        prefix = f"{HELD_OUT}/" if corpus.held_out else ""
        own = metrics.names(corpus.name, corpus.tasks)
        for task, spec in corpus.tasks.items():
            own += [f"{metrics.prefix(corpus.name, task, corpus.tasks)}/{name}" for name in ("skill", *extra)]
            if corpus.held_out and spec.ordered:
                # If a regression head scores it.
                own.append(f"{metrics.prefix(corpus.name, task, corpus.tasks)}/corr")
        names += [f"{prefix}{name}" for name in own]
    return names
