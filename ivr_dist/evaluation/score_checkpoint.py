"""Scores a checkpoint outside a run, in this process or in several processes of this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.multiprocessing.spawn import spawn

from ivr_dist import storage
from ivr_dist.checkpoint import store, weights
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.batches.pool_spec import PoolSpec
from ivr_dist.data.exclusions import excluded_by_run_of
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.evaluation import evaluate, pool_metrics, scored_corpus
from ivr_dist.evaluation.own_split import own_splits
from ivr_dist.evaluation.registry import configured_metrics
from ivr_dist.evaluation.split_predictions import Target, predict_split
from ivr_dist.runtime import collectives, device
from ivr_dist.shards.manifest import Manifest
from ivr_dist.units import parse_bytes


def score_checkpoint(
    checkpoint: str, split_url: str, workers: int, *, trust_code: bool = False, target: Target | None = None
) -> evaluate.Metrics:
    """Compute all metrics of a checkpoint on a packed split, each sample scored once.

    Args:
        checkpoint: The checkpoint's directory or URL.
        split_url: The packed split; what the checkpoint's run leaves out of it is not scored.
        workers: Processes that share the work; the result does not depend on it.
        trust_code: Whether classes outside the package that the checkpoint names may be imported: the model, without
            which it cannot be scored, and metrics, which are left out.
        target: The corpus of the model that the split is scored as.

    Raises:
        CheckpointError: The checkpoint is not complete.
        DataError: The split does not exist, or has other features or tasks than the model.
        UserError: The checkpoint's model is a class outside the package that is not trusted or cannot be imported.
    """
    store.verify(checkpoint)
    if workers <= 1:
        return _score(checkpoint, split_url, trust_code, target or Target())
    with tempfile.TemporaryDirectory(prefix="ivr-scoring-") as scratch:
        spawn(_run_rank, (workers, scratch, checkpoint, split_url, trust_code, target or Target()), nprocs=workers)  # type: ignore[no-untyped-call]
        scores: evaluate.Metrics = storage.read_json(str(Path(scratch) / "metrics.json"))
        return scores


def score_own_splits(
    checkpoint: str, split: str, workers: int, *, trust_code: bool = False, corpus: str = ""
) -> tuple[evaluate.Metrics, list[str]]:
    """Score a checkpoint on one split of its run; of several corpora on that of each, with means over them.

    Args:
        checkpoint: The checkpoint's directory or URL.
        split: `train`, `valid` or `test`.
        workers: As for `score_checkpoint`.
        trust_code: As for `score_checkpoint`.
        corpus: The corpus; empty: all that have the split.

    Returns:
        The metrics by name, and the splits that were scored.

    Raises:
        DataError: The run had no such split, or its data has changed.
    """
    urls = own_splits(checkpoint, split, corpus)
    scores: evaluate.Metrics = {}
    for name, url in urls.items():
        target = Target(corpus=name)
        scores |= score_checkpoint(checkpoint, storage.absolute(url), workers, trust_code=trust_code, target=target)
    state = store.read_state(checkpoint)
    if state.pool is not None and not corpus:
        spec = weights.batch_spec(state)
        assert isinstance(spec, PoolSpec), "the state has several corpora"
        scores |= pool_metrics.macro(scores, spec.layout.corpora)
    return scores, list(urls.values())


def _run_rank(
    rank: int, workers: int, scratch: str, checkpoint: str, split_url: str, trust_code: bool, target: Target
) -> None:
    torch.set_num_threads(1)
    with collectives.group(f"{scratch}/store", rank, workers):
        scores = _score(checkpoint, split_url, trust_code, target)
        if rank == 0:
            storage.write_json(str(Path(scratch) / "metrics.json"), scores)


def _score(checkpoint: str, split_url: str, trust_code: bool, target: Target) -> evaluate.Metrics:
    state = store.read_state(checkpoint)
    config = weights.stored_config(state, checkpoint)
    device.deterministic()
    manifest = Manifest.load(split_url)
    with weights.stored_text(checkpoint, state) as text:
        spec = weights.batch_spec(state, text)
    if isinstance(spec, BatchSpec):
        spec.check_split(manifest)
    where = device.training_device(collectives.rank())
    model = weights.load_model(checkpoint, verified=True, trust_code=trust_code).to(where).eval()
    # Not by the checkpoint's section `data`, whose disk cache and pipe belong to the training machine.
    reader = ShardReader(split_url, manifest, parse_bytes(config.data.cache_bytes))
    excluded = excluded_by_run_of(checkpoint, manifest.id)
    predicted = predict_split(
        model,
        spec,
        reader,
        global_batch=config.train.global_batch,
        device=where,
        target=target,
        standardized=tuple(config.data.standardize),
        excluded=excluded,
    )
    return predicted.scores(configured_metrics(config) if trust_code else None)


def zero_shot_notes(checkpoint: str, split_url: str, target: Target) -> list[str]:
    """Say what a model of several corpora does not read of one that it has not seen, and how the rest is scaled."""
    state = store.read_state(checkpoint)
    if not target.head or state.pool is None:
        return []
    train = Manifest.load(target.statistics) if target.statistics else None
    spec = weights.batch_spec(state)
    assert isinstance(spec, PoolSpec), "the state has several corpora"
    return scored_corpus.new_corpus_notes(spec, Manifest.load(split_url), train)


def metrics_of_own_code(checkpoint: str) -> list[str]:
    """List a checkpoint's metrics that are classes outside the package."""
    return list(weights.stored_config(store.read_state(checkpoint), checkpoint).eval.metrics)
