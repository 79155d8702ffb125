"""Predictions of a trained model for one packed split, of one corpus or of one of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.batches.pool_spec import PoolSpec
from ivr_dist.data.exclusions import NOTHING, Exclusions
from ivr_dist.data.loader import Loader
from ivr_dist.data.pooled_loader import PooledSplitLoader
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import DataError
from ivr_dist.evaluation import evaluate, pool_scores, scored_corpus
from ivr_dist.evaluation.metric import Metric
from ivr_dist.model.spec import IVROutput
from ivr_dist.planning.pool_layout import CorpusLayout
from ivr_dist.runtime import collectives
from ivr_dist.shards.manifest import Manifest


@dataclass(frozen=True)
class Target:
    """Which corpus of a model a split is scored as; nothing is needed where there is one, or one that fits."""

    corpus: str = ""
    """Name of a corpus of the model."""
    head: str = ""
    """Head that scores a corpus which the model has not seen."""
    statistics: str = ""
    """Training split of such a corpus, whose statistics standardize its features."""


@dataclass(frozen=True)
class SplitPredictions:
    """Predictions for a split, by task and in its own ranges."""

    predictions: evaluate.Predictions
    corpus: CorpusLayout | None
    """The corpus it was scored as; None of a model of one corpus."""
    manifest: Manifest

    def scores(self, extra: dict[str, Metric] | None = None) -> evaluate.Metrics:
        """Compute all metrics, and those of the config by name."""
        if self.corpus is None:
            return evaluate.score(self.predictions, self.manifest.corpus, self.manifest.tasks, extra)
        return pool_scores.score_corpus(self.predictions, self.corpus, extra)


def predict_split(
    forward: Callable[[Batch], IVROutput],
    spec: BatchSpec | PoolSpec,
    reader: ShardReader,
    *,
    global_batch: int,
    device: torch.device,
    target: Target = Target(),
    standardized: tuple[str, ...] = (),
    excluded: Exclusions = NOTHING,
) -> SplitPredictions:
    """Run a model over a split, each sample once; a collective call.

    Args:
        forward: The model in evaluation mode.
        spec: Contents of its batches.
        reader: Reads the split; closed at the end.
        global_batch: Samples of a batch over all ranks.
        device: The model's device.
        target: The corpus that the split is scored as.
        standardized: Modalities that the model reads standardized.
        excluded: Samples that are left out.

    Raises:
        DataError: The split does not fit the model.
        CorruptDataError, StorageError: It cannot be read.
    """
    manifest, rank, world = reader.manifest, collectives.rank(), collectives.world_size()
    if not isinstance(spec, PoolSpec):
        if target != Target():
            raise DataError(
                "the model was trained on one corpus, which a split must be of",
                where=f"{manifest.corpus}, split {manifest.split}",
                remedy="name no corpus, head or statistics",
            )
        with Loader(
            reader,
            spec,
            global_batch=global_batch,
            lanes=1,
            delay=0,
            seed=0,
            rank=rank,
            world=world,
            excluded=excluded,
        ) as loader:
            predictions = evaluate.predict(forward, loader.eval_batches(), manifest.samples, device, excluded)
        return SplitPredictions(predictions, None, manifest)
    if target.head:
        train = Manifest.load(target.statistics) if target.statistics else None
        spec, number = scored_corpus.with_new_corpus(spec, manifest, target.head, train, standardized)
    else:
        number = spec.layout.number(scored_corpus.corpus_of(spec.layout, manifest, target.corpus).name)
    corpus, native = spec.layout.corpora[number], scored_corpus.native(spec)
    with PooledSplitLoader(
        reader, native, number, batch=global_batch, rank=rank, world=world, excluded=excluded
    ) as pooled:
        predictions = evaluate.predict(forward, pooled.eval_batches(), manifest.samples, device, excluded)
    return SplitPredictions(pool_scores.by_task(predictions, corpus, spec.layout), corpus, manifest)
