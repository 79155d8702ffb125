"""Keys of samples in reports: ids, which in a pool also say of which corpus and which pass over it they are."""

from __future__ import annotations

from collections.abc import Sequence

from ivr_dist.data.step_batches import LeftOut, StepBatches
from ivr_dist.planning.pool_layout import PoolLayout
from ivr_dist.training.callbacks.base import PooledKey


def sample_key(sample: LeftOut) -> str:
    """Return the key of a sample that was not trained on."""
    return PooledKey.of(sample.name, sample.corpus, sample.number) if sample.corpus else sample.name


def trained_keys(fetched: StepBatches, layout: PoolLayout) -> Sequence[str]:
    """Return the keys of this rank's samples of a step, micro-batch after micro-batch."""
    if not layout.is_pool:
        return [key for batch in fetched.micro_batches for key in batch.keys]
    names = [corpus.name for corpus in layout.corpora]
    return [
        PooledKey.of(key, names[corpus], number)
        for batch, passes in zip(fetched.micro_batches, fetched.passes, strict=True)
        for key, corpus, number in zip(batch.keys, batch.corpus.tolist(), passes.tolist(), strict=True)
    ]
