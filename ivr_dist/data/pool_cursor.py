"""Data cursor of a pool: position, mix and identity of every corpus; version 2 of the cursor of one corpus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ivr_dist.common.decoder import DecodeError, decode
from ivr_dist.errors import CheckpointError, CheckpointMismatchError
from ivr_dist.planning.pool_plan import Phase

VERSION = 2
_OF_THE_MIX = ("lanes", "delay")
"""Fields of a corpus that follow from the mix that a run began with."""

_RUN_REMEDIES = {
    "seed": "set run.seed to the checkpoint's value",
    "global_batch": "set train.global_batch to the checkpoint's value",
}
_CORPUS_REMEDIES = {
    "manifest_id": (
        "data has id",
        "point data.corpora at the shards that the run started with, or start a new run with train.init_from",
    ),
    "samples": (
        "number of samples is",
        "point data.corpora at the shards that the run started with, or start a new run with train.init_from",
    ),
    "lanes": ("number of lanes is", "read it by the order that it belongs to"),
    "delay": ("shuffle delay is", "read it by the order that it belongs to"),
    "first_use": ("first use is", "restore data.mix.uses_from and train.init_from of the checkpoint"),
    "excluded": (
        "list of left-out samples has digest",
        "restore data.exclude and data.mix.overlap of the checkpoint, or start a new run with train.init_from",
    ),
}


@dataclass(frozen=True, kw_only=True)
class CorpusIdentity:
    """What the order of one corpus depends on, which does not change in a run."""

    manifest_id: str
    """Id of the training split's manifest."""
    samples: int
    lanes: int
    delay: int
    first_use: int = 0
    """Uses of an earlier run, whose passes this one goes on with."""
    excluded: str = ""
    """Digest of the samples that are left out; empty where there are none."""


@dataclass(frozen=True, kw_only=True)
class PoolCursor:
    """Position of the next step to train on, equal on all ranks and independent of their number."""

    version: int = VERSION
    seed: int
    global_batch: int
    phase: int
    """Number of the phase in `phases`."""
    epoch: int
    """Epochs begun before this one, over all phases."""
    step: int
    """Steps consumed within the epoch."""
    phases: tuple[Phase, ...]
    corpora: Mapping[str, CorpusIdentity]
    """By name, those that are trained; all cursors of an order share it."""
    uses: Mapping[str, int]
    """By name: uses before this position, with those of the earlier run."""

    def check_matches(self, other: PoolCursor) -> None:
        """Compare a cursor with that of the start of an order; the position may differ.

        Raises:
            CheckpointMismatchError: The two describe different orders; names the first difference.
        """
        self.check_same_data(other)
        check_same_mix(self.phases, other.phases)
        for name, here in other.corpora.items():
            self._check_corpus(name, here, _OF_THE_MIX)

    def check_same_data(self, other: PoolCursor) -> None:
        """Compare all but the position and what follows from the mix, with which a run may be continued.

        Lanes and delays are then those of the checkpoint; a delay that the config sets is compared as a key of it.

        Args:
            other: The cursor of a fresh start with this config.

        Raises:
            CheckpointMismatchError: A run cannot be continued; names the first difference.
        """
        for name, remedy in _RUN_REMEDIES.items():
            stored, current = getattr(self, name), getattr(other, name)
            if stored != current:
                raise CheckpointMismatchError(
                    f"the checkpoint's data order has {name} {stored}, this run has {current}", remedy=remedy
                )
        for name in other.corpora:
            if name not in self.corpora:
                raise CheckpointMismatchError(
                    f"the checkpoint knows no corpus {name}", remedy="start a new run with train.init_from"
                )
        for name in self.corpora:
            if name not in other.corpora:
                raise CheckpointMismatchError(
                    f"the checkpoint was trained on corpus {name} too",
                    remedy="add it to data.corpora, or start a new run with train.init_from",
                )
        for name, here in other.corpora.items():
            self._check_corpus(name, here, [item for item in _CORPUS_REMEDIES if item not in _OF_THE_MIX])

    def _check_corpus(self, name: str, here: CorpusIdentity, items: Iterable[str]) -> None:
        for item in items:
            what, remedy = _CORPUS_REMEDIES[item]
            stored, current = getattr(self.corpora[name], item), getattr(here, item)
            if stored != current:
                raise CheckpointMismatchError(
                    f"{name}: the checkpoint's {what} {stored or 'none'}, this run's {current or 'none'}",
                    remedy=remedy,
                )

    def to_json(self) -> dict[str, Any]:
        """Convert the fields to JSON values."""
        value = asdict(self)
        value["phases"] = [asdict(phase) for phase in self.phases]
        uses = value.pop("uses")
        for name, corpus in value["corpora"].items():
            corpus["uses"] = uses[name]
            # Fields that most runs have nothing for are left out.
            for item in ("first_use", "excluded"):
                if not corpus[item]:
                    del corpus[item]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PoolCursor:
        """Rebuild a cursor.

        Raises:
            CheckpointError: A field is missing, unknown or of the wrong type, or two contradict each other.
        """
        try:
            return decode_pool_cursor(value)
        except DecodeError as error:
            raise CheckpointError(
                f"the checkpoint's data cursor is damaged: {error}", remedy="resume from another checkpoint"
            ) from None

    def check(self) -> None:
        """Check what the types do not say.

        Raises:
            DecodeError: Two fields contradict each other.
        """
        firsts = [phase.first_step for phase in self.phases]
        if self.version != VERSION or not self.phases or firsts[0] != 0 or firsts != sorted(set(firsts)):
            raise DecodeError("phases do not begin one after the other", ("phases",))
        if not 0 <= self.phase < len(self.phases):
            raise DecodeError(f"there is no phase {self.phase}", ("phase",))
        for phase in self.phases:
            if phase.slots < 1 or any(quota < 0 for quota in phase.quotas.values()):
                raise DecodeError("quotas are not counts", ("phases",))
        for name, corpus in self.corpora.items():
            if not 1 <= corpus.lanes <= corpus.samples or corpus.delay < 0:
                raise DecodeError(f"{name} has no order of {corpus.lanes} lanes", ("corpora", name))
        if not 0 <= self.step < self.phases[self.phase].steps_per_epoch(self.global_batch):
            raise DecodeError(f"there is no step {self.step} in an epoch", ("step",))


def check_same_mix(there: Sequence[Phase], here: Sequence[Phase]) -> None:
    """Compare the phases of a checkpoint from its position on with those of the config.

    Raises:
        CheckpointMismatchError: They differ; names the first difference.
    """
    remedy = "restore the mix of the checkpoint, or set data.mix.changes=allow"
    for old, new in zip(there, here, strict=False):
        for name, quota in new.quotas.items():
            if old.quotas.get(name, 0) != quota:
                raise CheckpointMismatchError(
                    f"{name} has {old.quotas.get(name, 0):,} samples an epoch in the checkpoint, {quota:,} here",
                    remedy=remedy,
                )
        if old.first_step != new.first_step:
            raise CheckpointMismatchError(
                f"a phase of the mix begins after {old.first_step:,} steps in the checkpoint, after "
                f"{new.first_step:,} here",
                remedy=remedy,
            )
    if len(there) != len(here):
        raise CheckpointMismatchError(
            f"the mix has {len(there)} phases to come in the checkpoint, {len(here)} here", remedy=remedy
        )


def decode_pool_cursor(value: Mapping[str, Any]) -> PoolCursor:
    """Decode a cursor strictly.

    Raises:
        DecodeError: A field is missing, unknown or of the wrong type, or two contradict each other.
    """
    stored = decode(_StoredCursor, value)
    cursor = PoolCursor(
        **{field.name: getattr(stored, field.name) for field in fields(_StoredCursor) if field.name != "corpora"},
        corpora={
            name: CorpusIdentity(**{field.name: getattr(corpus, field.name) for field in fields(CorpusIdentity)})
            for name, corpus in stored.corpora.items()
        },
        uses={name: corpus.uses for name, corpus in stored.corpora.items()},
    )
    cursor.check()
    return cursor


@dataclass(frozen=True, kw_only=True)
class _StoredCorpus(CorpusIdentity):
    uses: int


@dataclass(frozen=True, kw_only=True)
class _StoredCursor:
    """A cursor as checkpoints hold it, with the uses of each corpus beside its identity."""

    version: int = VERSION
    seed: int
    global_batch: int
    phase: int
    epoch: int
    step: int
    phases: tuple[Phase, ...]
    corpora: Mapping[str, _StoredCorpus]
