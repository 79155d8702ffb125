"""The plan of a pool: quotas, phases, lanes and delays of its corpora. Pure data, equal on all workers.

The driver works it out once; it travels in the cursor of checkpoints and in `run.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ivr_dist.config.lanes import default_delay

_WINDOW_BYTES = 1 << 30
"""Memory for the shuffle windows of all corpora together; see `config.lanes.default_delay`."""


@dataclass(frozen=True, kw_only=True)
class PooledCorpus:
    """What the order of a pool depends on of one trained corpus."""

    name: str
    manifest_id: str
    """Identity of its training split."""
    shard_samples: npt.NDArray[np.int64] = field(repr=False, compare=False)
    """[S] samples of each shard of the training split."""
    lanes: int
    """Lanes of its order."""
    delay: int
    """How far the shuffle may move a sample within its lane, in samples."""
    first_use: int = 0
    """Uses of its samples by an earlier run, whose passes this one goes on with."""
    excluded: str = ""
    """Digest of the samples that are left out; empty where there are none."""

    @property
    def samples(self) -> int:
        """Samples of the training split."""
        return int(self.shard_samples.sum())


@dataclass(frozen=True)
class Phase:
    """A part of a run with constant quotas; it begins an epoch, and the passes of all corpora go on."""

    first_step: int
    """Steps of the run before it."""
    quotas: Mapping[str, int]
    """Uses an epoch by corpus."""

    @property
    def slots(self) -> int:
        """Slots of an epoch, E."""
        return sum(self.quotas.values())

    def steps_per_epoch(self, global_batch: int) -> int:
        """Steps of an epoch; only the last one may have empty slots."""
        return math.ceil(self.slots / global_batch)


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """The mix of a run's corpora."""

    corpora: tuple[PooledCorpus, ...]
    """Trained corpora, in the order of the config."""
    phases: tuple[Phase, ...]
    """In the order of their first steps; the first one begins at step 0."""

    @property
    def samples(self) -> Mapping[str, int]:
        """Samples by corpus."""
        return {corpus.name: corpus.samples for corpus in self.corpora}


def pool_delays(samples: Sequence[int], split_bytes: Sequence[int], lanes: Sequence[int]) -> list[int]:
    """Default shuffle delays: the shuffle windows of all corpora together stay within 1 GiB.

    Corpora smaller than an equal part of it get what they need; the others share the rest equally.

    Args:
        samples: Samples of each corpus.
        split_bytes: Bytes of its shards.
        lanes: Its lanes.
    """
    by_size = sorted(range(len(samples)), key=lambda corpus: (split_bytes[corpus], corpus))
    remaining, delays = _WINDOW_BYTES, [0] * len(samples)
    for position, corpus in enumerate(by_size):
        part = remaining // (len(by_size) - position)
        delays[corpus] = default_delay(samples[corpus], split_bytes[corpus], lanes[corpus], part)
        remaining -= min(part, split_bytes[corpus])
    return delays
