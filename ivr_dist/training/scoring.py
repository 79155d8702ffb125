"""Scores the splits of one name, valid or test, of all corpora of a run; the same for one corpus and for a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from ivr_dist.data.batches.batch import Batch
from ivr_dist.evaluation import evaluate, pool_metrics, pool_scores
from ivr_dist.evaluation.evaluate import Metrics
from ivr_dist.evaluation.metric import Metric
from ivr_dist.model.spec import IVROutput
from ivr_dist.planning.pool_layout import PoolLayout
from ivr_dist.training.splits import ScoredSplit


def score_splits(
    forward: Callable[[Batch], IVROutput],
    splits: Sequence[ScoredSplit],
    layout: PoolLayout,
    extra: Mapping[str, Metric],
    device: torch.device,
    watched: Callable[[Iterable[Batch]], Iterable[Batch]],
) -> Metrics:
    """Score splits, each sample once; a collective call.

    Args:
        forward: The model in evaluation mode; called equally often on every rank.
        splits: Splits of one name, of different corpora.
        layout: Layout of the run.
        extra: The metrics of `eval.metrics`, by name.
        device: The model's device.
        watched: Wraps the batches, to note progress.

    Returns:
        All metrics by name, in a pool with means over its corpora.
    """
    scores: Metrics = {}
    for split in splits:
        batches = watched(split.loader.eval_batches())
        predictions = evaluate.predict(forward, batches, split.manifest.samples, device, split.loader.excluded)
        if split.corpus is None:
            scores |= evaluate.score(predictions, split.corpus_name, split.manifest.tasks, extra)
        else:
            named = pool_scores.by_task(predictions, split.corpus, layout)
            scores |= pool_scores.score_corpus(named, split.corpus, extra)
    if layout.is_pool:
        scores |= pool_metrics.macro(scores, layout.corpora)
    return scores
