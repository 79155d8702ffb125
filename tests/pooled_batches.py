"""A pool in memory: corpora of other feature sets, some of equal widths, and other tasks; its batches and models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ivr_dist.config import Config, LossConfig, ModelConfig
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.pool_collate import collate_pool
from ivr_dist.data.batches.pool_spec import PoolSpec
from ivr_dist.data.batches.pooled_rows import PooledRows
from ivr_dist.model.base import FusionModel
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.planning.pool_layout import CorpusLayout, Input, PoolLayout
from ivr_dist.shards.decode import RawSample
from ivr_dist.shards.member_layout import Layout
from ivr_dist.shards.sample_columns import Samples
from ivr_dist.shards.specs import FeatureSpec, TaskSpec

SENTIMENT = TaskSpec(type="regression", low=-3.0, high=3.0)
SCORE = TaskSpec(type="regression", low=-1.0, high=1.0)
MOOD = TaskSpec(type="classification", classes=3, names=("bad", "so", "good"))
UNIT = TaskSpec(type="regression", low=-1.0, high=1.0)

SETS: dict[str, dict[str, Input]] = {
    "text": {"glove.6b": ("features", 6), "ids": ("tokens", 9)},
    "audio": {"covarep": ("features", 5), "narrow": ("features", 5)},
    "vision": {"facet": ("features", 4), "openface": ("features", 4)},
}
"""In each modality two sets; those of audio and of vision have one width."""

CORPORA = (
    CorpusLayout(
        name="talks",
        sets={"text": "glove.6b", "audio": "covarep", "vision": "facet"},
        tasks={"sentiment": SENTIMENT},
        heads={"sentiment": "sentiment"},
    ),
    CorpusLayout(
        name="calls",
        sets={"text": "ids", "audio": "narrow"},
        tasks={"sentiment": SENTIMENT, "mood": MOOD},
        heads={"sentiment": "sentiment", "mood": "mood"},
        loss_weight=0.5,
    ),
    CorpusLayout(
        name="clips",
        sets={"audio": "covarep", "vision": "openface"},
        tasks={"mood": MOOD},
        heads={"mood": "mood"},
        loss_weight=2.0,
    ),
    CorpusLayout(name="posts", sets={"text": "glove.6b"}, tasks={"score": SCORE}, heads={"score": "sentiment"}),
)
LAYOUT = PoolLayout(corpora=CORPORA, sets=SETS, heads={"sentiment": UNIT, "mood": MOOD}, scale="unit", is_pool=True)

STATISTICS = {
    corpus.name: {
        modality: (
            np.full(SETS[modality][own][1], 0.1 * number, np.float32),
            np.full(SETS[modality][own][1], 1.0 + number, np.float32),
        )
        for modality, own in corpus.sets.items()
        if modality != "text"
    }
    for number, corpus in enumerate(CORPORA)
}
SPEC = PoolSpec(LAYOUT, STATISTICS, {"calls": {"mood": np.array([0.5, 1.0, 3.0], np.float32)}})


def raw_sample(number: int, seed: int) -> RawSample:
    """One sample of the corpus with this number, the same for the same seed; it may lack a modality or labels."""
    random, corpus = np.random.default_rng([number, seed]), CORPORA[number]
    arrays = {}
    for modality, own in corpus.sets.items():
        kind, width = SETS[modality][own]
        steps = int(random.integers(1, 6))
        if random.random() < 0.2:
            continue
        if kind == "tokens":
            # Also ids that the training splits do not have.
            arrays[modality] = random.integers(0, width + 4, steps).astype(np.int32)
        else:
            arrays[modality] = random.normal(number, 1 + number, (steps, width)).astype(np.float32)
    labels = {}
    for task, spec in corpus.tasks.items():
        value = float(random.integers(spec.classes) if spec.classes else random.uniform(spec.low or 0, spec.high or 0))
        labels[task] = None if random.random() < 0.1 else value
    return RawSample(key=f"{seed:06d}", id=f"{corpus.name}_{seed}", labels=labels, arrays=arrays, shard=corpus.name)


def pooled_rows(corpora: Sequence[int], seeds: Sequence[int]) -> PooledRows:
    """One sample of a corpus for each of these seeds, as they are read: by corpus."""
    numbers = np.array(corpora, np.int64)
    parts, rows = {}, np.zeros(len(numbers), np.int64)
    for number in sorted(set(corpora)):
        places = np.flatnonzero(numbers == number)
        rows[places] = np.arange(len(places))
        parts[number] = Samples.of([raw_sample(number, seeds[place]) for place in places], _member_layout(number))
    present = sorted(parts)
    return PooledRows([parts[number] for number in present], np.searchsorted(present, numbers), rows, numbers)


def pooled_batch(corpora: Sequence[int], slots: Sequence[int] | None = None, spec: PoolSpec = SPEC) -> Batch:
    """A batch of samples of these corpora; a slot always holds the same sample.

    Args:
        corpora: [B] number of the corpus of each.
        slots: [B] their slots in the global batch; None: from 0 on.
        spec: Contents of the batch.
    """
    numbers = np.arange(len(corpora)) if slots is None else np.array(slots, np.int64)
    return collate_pool(pooled_rows(corpora, numbers.tolist()), numbers, numbers, spec)


def pooled_model(config: ModelConfig, loss: LossConfig | None = None, *, seed: int = 0) -> FusionModel:
    """A model of the pool with fresh weights."""
    torch.manual_seed(seed)
    return build_model(config, ModelSpec.of(LAYOUT), loss or Config().loss)


def _member_layout(number: int) -> Layout:
    corpus = CORPORA[number]
    features = {}
    for modality, own in corpus.sets.items():
        kind, width = SETS[modality][own]
        if kind == "tokens":
            features[modality] = FeatureSpec(set=own, kind="tokens", dim=1, dtype="int32")
        else:
            features[modality] = FeatureSpec(set=own, kind="features", dim=width, dtype="float32")
    return Layout.of(features)
