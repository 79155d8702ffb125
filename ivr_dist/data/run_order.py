"""The data order of a run, of one corpus or of a pool: what each slot of each global batch holds, and what follows it.

The loader, the read forecast and the audit read the order through `RunOrder` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.sample_order import EMPTY, EpochOrder, Int64Array


@dataclass(frozen=True)
class GlobalBatch:
    """The samples of one global batch of G slots."""

    corpus: Int64Array
    """[G] number of the corpus of each slot; 0 where the slot is empty."""
    numbers: Int64Array
    """[G] number of the sample in its corpus (manifest order), EMPTY where the slot has none."""
    passes: Int64Array
    """[G] the pass over the corpus that the sample is used in, from 0; of one corpus, the epoch."""


class Cursor(Protocol):
    """Position of the next step to train on, with everything that the order depends on."""

    @property
    def epoch(self) -> int:
        """Completed epochs, 0 at the start."""

    @property
    def step(self) -> int:
        """Steps consumed within the epoch."""

    def check_matches(self, other: Self) -> None:
        """Compare a checkpoint's cursor (self) with that of the config; the position may differ.

        Raises:
            CheckpointMismatchError: The two describe different orders.
        """

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""


C = TypeVar("C", bound=Cursor)


class RunOrder(Protocol, Generic[C]):
    """The order of a run."""

    @property
    def start(self) -> C:
        """Cursor of the first step."""

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora, in the order of their numbers."""

    def batch(self, cursor: C) -> GlobalBatch:
        """Compute the global batch at a position. Sequential access is cheap, any access takes no walk."""

    def advance(self, cursor: C) -> C:
        """Return the position after one more step."""

    def at(self, step: int) -> C:
        """Return the position of a step of the run, counted from 0 over all epochs."""

    def uses(self, step: int) -> Mapping[str, int]:
        """Count the uses of samples of each corpus in the first `step` steps of the run, by name."""

    def resumed(self, cursor: C, changes: bool) -> tuple[Self, C]:
        """Continue a run whose checkpoint holds `cursor`; returns the order to go on with, and the position in it.

        Args:
            cursor: The checkpoint's position.
            changes: Whether another mix than the checkpoint's is allowed.

        Raises:
            CheckpointMismatchError: The checkpoint's order is another one.
        """


class OneCorpusOrder:
    """The order of a run on one corpus: every epoch is a pass over it; implements `RunOrder`.

    Args:
        name: Name of the corpus.
        shard_samples: [S] samples of each shard, in manifest order.
        start: Cursor of the first step, which names the data set, seed, lanes, batch and delay.
        shuffle: Whether epochs are shuffled; otherwise they are in manifest order.
        number: Number of the corpus in global batches.
    """

    def __init__(
        self, name: str, shard_samples: Int64Array, start: DataCursor, *, shuffle: bool = True, number: int = 0
    ) -> None:
        self.corpora = (name,)
        self.start = start
        self.samples = int(shard_samples.sum())
        self._shard_samples = shard_samples
        self._shuffle = shuffle
        self._number = number
        self._newest: tuple[int, EpochOrder] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of an epoch; only the last one may have empty slots."""
        return -(-self.samples // self.start.global_batch)

    def batch(self, cursor: DataCursor) -> GlobalBatch:
        """Compute the global batch at a position."""
        numbers = self._epoch_order(cursor.epoch).batch(cursor.step)
        corpus = np.where(numbers == EMPTY, 0, self._number)
        return GlobalBatch(corpus, numbers, np.full_like(numbers, cursor.epoch))

    def advance(self, cursor: DataCursor) -> DataCursor:
        """Return the position after one more step."""
        return cursor.advance(self.steps_per_epoch)

    def at(self, step: int) -> DataCursor:
        """Return the position of a step of the run, counted from 0 over all epochs."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        return replace(self.start, epoch=epoch, step=step_of_epoch)

    def uses(self, step: int) -> Mapping[str, int]:
        """Count the uses of samples in the first `step` steps of the run, by name of the corpus."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return {self.corpora[0]: epochs * self.samples + min(steps * self.start.global_batch, self.samples)}

    def resumed(self, cursor: DataCursor, changes: bool) -> tuple[OneCorpusOrder, DataCursor]:
        """Continue a run whose checkpoint holds `cursor`; see `RunOrder.resumed`."""
        cursor.check_matches(self.start)
        return self, cursor

    def _epoch_order(self, epoch: int) -> EpochOrder:
        if self._newest is None or self._newest[0] != epoch:
            start = self.start
            order = EpochOrder(
                self._shard_samples,
                start.manifest_id,
                start.seed,
                epoch,
                start.lanes,
                start.global_batch,
                start.delay,
                shuffle=self._shuffle,
            )
            self._newest = epoch, order
        return self._newest[1]
