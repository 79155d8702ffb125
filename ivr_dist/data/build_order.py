"""Builds the data order of a run from its plan: of one corpus, or of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ivr_dist.config import Config
from ivr_dist.config.corpora import SplitKey, trained
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.pooled_order import PooledOrder
from ivr_dist.data.run_order import OneCorpusOrder, RunOrder
from ivr_dist.planning.plan import Plan
from ivr_dist.shards.manifest import Manifest


def build_order(
    config: Config,
    plan: Plan,
    manifests: Mapping[str, Manifest],
    numbers: Mapping[str, int],
    excluded: Mapping[str, str] | None = None,
    first_uses: Mapping[str, int] | None = None,
) -> RunOrder[Any]:
    """Build the order of a run.

    Args:
        config: The run's config.
        plan: Its plan.
        manifests: Manifests of its splits, by the text of their `SplitKey`.
        numbers: Number of each corpus in batches.
        excluded: By split: digest of the samples that are left out.
        first_uses: By corpus: uses of an earlier run, whose passes this one goes on with.
    """
    if plan.pool is not None:
        corpora = [replace(corpus, first_use=(first_uses or {}).get(corpus.name, 0)) for corpus in plan.pool.corpora]
        return PooledOrder(corpora, plan.pool.phases, config.run.seed, plan.global_batch, numbers)
    (name,) = trained(config)
    key = str(SplitKey(name, "train"))
    train = manifests[key]
    start = DataCursor(
        manifest_id=train.id,
        seed=config.run.seed,
        lanes=plan.lanes,
        global_batch=plan.global_batch,
        delay=plan.delay,
        excluded=(excluded or {}).get(key, ""),
    )
    own = name or train.corpus
    return OneCorpusOrder(own, train.shard_samples, start, number=numbers.get(own, 0))
