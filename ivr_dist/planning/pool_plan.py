"""The plan of a pool: quotas, phases, lanes and delays of its corpora. Pure data, equal on all workers.

The driver works it out once; it travels in the cursor of checkpoints and in `run.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist.config import Config
from ivr_dist.config.corpora import entries, trained
from ivr_dist.config.lanes import default_delay
from ivr_dist.errors import ConfigError
from ivr_dist.planning.quotas import (
    capped_quotas,
    epochs_until_exhausted,
    largest_remainders,
    pass_cap,
    pool_lanes,
    share_weights,
)
from ivr_dist.shards.manifest import Manifest
from ivr_dist.units import as_written, parse_interval

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

    @cached_property
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

    global_batch: int

    @property
    def samples(self) -> Mapping[str, int]:
        """Samples by corpus."""
        return {corpus.name: corpus.samples for corpus in self.corpora}

    @property
    def slots(self) -> int:
        """Slots of an epoch of the first phase."""
        return self.phases[0].slots


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


def make_pool_plan(
    config: Config, trains: Mapping[str, Manifest], excluded: Mapping[str, str] | None = None
) -> PoolPlan:
    """Work out the mix of a run's corpora.

    Args:
        config: The run's config.
        trains: Manifest of the training split by corpus, of all trained ones.
        excluded: By corpus: digest of the samples that are left out.

    Raises:
        ConfigError: The mix cannot be had: caps leave nothing, a corpus is smaller than its part of a step, or a phase
            ends before it begins.
    """
    samples = {name: manifest.samples for name, manifest in trains.items()}
    batch = config.train.global_batch
    phases = _phases(config, samples)
    for name, count in samples.items():
        most = max(-(-batch * phase.quotas[name] // phase.slots) for phase in phases)
        if most > count:
            raise ConfigError(
                f"train.global_batch {batch} takes {most} samples a step of {name}, which has {count}",
                where=f"data.corpora.{name}",
                remedy="lower its share, its max_passes or the batch",
            )
    lanes = pool_lanes(list(phases[0].quotas.values()), list(samples.values()))
    delays = pool_delays(list(samples.values()), [manifest.total_bytes for manifest in trains.values()], lanes)
    if config.data.shuffle_delay is not None:
        delays = [config.data.shuffle_delay] * len(lanes)
    corpora = tuple(
        PooledCorpus(
            name=name,
            manifest_id=manifest.id,
            shard_samples=manifest.shard_samples,
            lanes=own_lanes,
            delay=delay,
            excluded=(excluded or {}).get(name, ""),
        )
        for (name, manifest), own_lanes, delay in zip(trains.items(), lanes, delays, strict=True)
    )
    return PoolPlan(corpora=corpora, phases=phases, global_batch=batch)


def is_mixed(config: Config) -> bool:
    """Whether samples are ordered as a pool: of several corpora, or with epochs that are no passes over the one."""
    names = trained(config)
    return len(names) > 1 or (names != [""] and config.data.mix.epoch_samples is not None)


def _phases(config: Config, samples: Mapping[str, int]) -> tuple[Phase, ...]:
    mix, batch = config.data.mix, config.train.global_batch
    if not mix.schedule:
        corpora = entries(config)
        kind = next((k for k in ("share", "passes") if any(getattr(corpora[n], k) is not None for n in samples)), None)
        given = {name: getattr(corpora[name], kind) for name in samples} if kind else {}
        return (
            Phase(0, _quotas(config, samples, kind or "alpha", given or (1.0 if mix.alpha is None else mix.alpha))),
        )
    phases: list[Phase] = []
    first, epochs = 0, Fraction(0)
    for number, phase in enumerate(mix.schedule):
        kind = next(name for name in ("alpha", "share", "passes") if name in phase)
        phases.append(Phase(first, _quotas(config, samples, kind, phase[kind])))
        if "until" not in phase:
            break
        until = parse_interval(str(phase["until"]))
        steps = phases[-1].steps_per_epoch(batch)
        end = math.ceil(until.count) if until.unit == "steps" else first + math.ceil((until.count - epochs) * steps)
        if end <= first:
            raise ConfigError(
                f"data.mix.schedule[{number}] ends after {end:,} steps, but begins after {first:,}",
                where="data.mix.schedule",
                remedy="until counts from the beginning of the run; let each phase end later than the one before",
            )
        epochs += Fraction(end - first, steps)
        first = end
    return tuple(phases)


def _quotas(config: Config, samples: Mapping[str, int], kind: str, given: Any) -> dict[str, int]:
    """Uses an epoch by corpus, from alpha, or from a share or a number of passes of each."""
    total = config.data.mix.epoch_samples or sum(samples.values())
    if kind == "alpha":
        weights = share_weights(samples, given)
    elif kind == "share":
        weights = {name: as_written(given[name]) for name in samples}
    else:
        weights = {name: samples[name] * as_written(given[name]) for name in samples}
        # An epoch is as long as the passes say.
        total = round(sum(weights.values()))
    most = {name: entries(config)[name].max_passes for name in samples}
    capped = {name: passes for name, passes in most.items() if passes is not None}
    if not capped:
        return largest_remainders(total, weights)
    steps = math.ceil(Fraction(total, config.train.global_batch))
    epochs = as_written(config.train.epochs)
    if config.train.max_steps is not None:
        epochs = Fraction(config.train.max_steps, steps)
    caps = {name: pass_cap(samples[name], passes, epochs) for name, passes in capped.items()}
    try:
        return capped_quotas(total, weights, caps)
    except ConfigError:
        reached = epochs_until_exhausted(samples, capped, total)
        raise ConfigError(
            f"all corpora reach max_passes after {float(reached):.3g} of {float(epochs):.3g} epochs",
            where="data.corpora",
            remedy="raise one, or lower train.epochs",
        ) from None
