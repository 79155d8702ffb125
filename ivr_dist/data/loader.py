"""Data loader: the batches of one rank, prefetched by one background thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import tee

import numpy as np

from ivr_dist.config.lanes import check_layout
from ivr_dist.data.background_stream import OneStream
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.collate import BatchSpec, collate
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.exclusions import NOTHING, Exclusions
from ivr_dist.data.reading.shard_reader import ReadResult, ShardReader
from ivr_dist.data.sample_order import EMPTY, EpochOrder, Int64Array, by_length, micro_slots, rank_slots
from ivr_dist.data.step_batches import LeftOut, StepBatches, closing, timed
from ivr_dist.errors import ConfigError, CorruptDataError, StorageError
from ivr_dist.shards.sample_columns import Samples


class Loader:
    """Reads one rank's slots of every global batch of a split.

    Only one stream of batches is open at a time: a new one closes the previous one. Use it as a context manager, or
    call `close`.

    Args:
        reader: Reads the split; closed with the loader.
        spec: Contents of the batches.
        global_batch: Slots of a global batch.
        accumulation: Micro-steps of a global batch.
        lanes: Lanes of the order, a divisor of `global_batch`.
        delay: Samples by which one may move within its lane.
        seed: Seed of the order.
        shuffle: Whether epochs are shuffled; otherwise they are in manifest order.
        rank: This rank, 0..world-1.
        world: Number of ranks; need not divide `global_batch`.
        prefetch: Number of steps to prefetch, at least 1.
        by_length: Whether the slots of each global batch are sorted by length.
        skip: Whether a sample that cannot be read leaves its slot empty; otherwise it is an error. Samples to be scored
            are never skipped.
        pin: Whether the background thread copies batches to page-locked memory.
        excluded: Samples that are left out, in training and in scoring: their slots stay empty, and they are not read.

    Raises:
        ConfigError: The order is not defined, or `prefetch` is less than 1.
        DataError: The split lacks contents of the batches.
    """

    def __init__(
        self,
        reader: ShardReader,
        spec: BatchSpec,
        *,
        global_batch: int,
        accumulation: int = 1,
        lanes: int,
        delay: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        prefetch: int = 4,
        by_length: bool = False,
        skip: bool = False,
        pin: bool = False,
        excluded: Exclusions = NOTHING,
    ) -> None:
        check_layout(lanes, global_batch, delay)
        if prefetch < 1:
            raise ConfigError(f"data.prefetch is {prefetch}", remedy="set it to 1 or more")
        spec.check_split(reader.manifest)
        self.reader = reader
        self.spec = spec
        self.excluded = excluded
        """Samples that are left out."""
        self.start = DataCursor(
            manifest_id=reader.manifest.id,
            seed=seed,
            lanes=lanes,
            global_batch=global_batch,
            delay=delay,
            excluded=excluded.digest,
        )
        """Cursor of the first step of the first epoch."""
        self._accumulation = accumulation
        self._shuffle = shuffle
        self._rank = rank
        self._world = world
        self._prefetch = prefetch
        self._by_length = by_length
        self._skip = skip
        self._pin = pin
        self._stream = OneStream()
        self._shard_samples = reader.manifest.shard_samples

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self, cursor: DataCursor) -> Iterator[StepBatches]:
        """Iterate over the steps from `cursor` on, epoch after epoch without end; reading starts with the call.

        Raises:
            CheckpointMismatchError: The cursor belongs to another order.
            CorruptDataError: Data does not match its checksum or layout; raised by the iterator at that step.
            StorageError: Storage failed; likewise.
        """
        cursor.check_matches(self.start)
        return timed(self._stream.open(self._produce_steps(cursor), self._prefetch))

    def advance(self, cursor: DataCursor) -> DataCursor:
        """Return the position after one more step."""
        return cursor.advance(-(-int(self._shard_samples.sum()) // self.start.global_batch))

    def left_out(self, cursor: DataCursor) -> list[LeftOut]:
        """Look up this rank's samples in a step that is not trained; only indexes are read.

        Samples that the run leaves out are not among them.

        Raises:
            DataError, CorruptDataError, StorageError: An index cannot be read.
        """
        return [LeftOut(name) for name in self.names(cursor)]

    def names(self, cursor: DataCursor) -> list[str]:
        """Look up the names of this rank's samples in a step (see `ShardReader.names`); only indexes are read.

        Samples that the run leaves out are not among them.

        Raises:
            DataError, CorruptDataError, StorageError: An index cannot be read.
        """
        numbers = self._order(cursor.epoch, self._shuffle).batch(cursor.step)
        return self.reader.names(self._plan(cursor, numbers).numbers)

    def eval_batches(self) -> Iterator[Batch]:
        """Iterate over every sample of the split once over all ranks, in manifest order.

        Every rank has the same number of batches.
        """
        return closing(self._stream.open(self._produce_eval(), self._prefetch * self._accumulation))

    def meters(self) -> dict[str, float]:
        """Return statistics of this rank's reader so far: counts, milliseconds and bytes, by name."""
        return self.reader.meters()

    def close(self) -> None:
        """End the background thread and close the reader; may be called again."""
        self._stream.close()
        self.reader.close()

    def _order(self, epoch: int, shuffle: bool) -> EpochOrder:
        start = self.start
        return EpochOrder(
            self._shard_samples,
            start.manifest_id,
            start.seed,
            epoch,
            start.lanes,
            start.global_batch,
            start.delay,
            shuffle=shuffle,
        )

    def _produce_steps(self, cursor: DataCursor) -> Iterator[StepBatches]:
        planned, requested = tee(self._plan_steps(cursor))
        results = self.reader.read_ahead(step.numbers for step in requested)
        for step, result in zip(planned, results, strict=True):
            remaining, samples, skipped = self._skip_failures(step, result)
            left_out = [LeftOut(name) for name in self.reader.names(step.excluded)] if step.excluded.size else ()
            following = self.advance(step.cursor)
            yield StepBatches(step.cursor, following, self._micro_batches(remaining, samples), skipped, left_out)

    def _produce_eval(self) -> Iterator[Batch]:
        order = self._order(0, shuffle=False)
        planned, requested = tee(self._plan(self.start, order.batch(step)) for step in range(order.steps))
        results = self.reader.read_ahead(step.numbers for step in requested)
        for step, result in zip(planned, results, strict=True):
            yield from self._micro_batches(step, result.all_or_raise())

    def _plan_steps(self, cursor: DataCursor) -> Iterator[_PlannedStep]:
        while True:
            epoch = cursor.epoch
            order = self._order(epoch, self._shuffle)
            while cursor.epoch == epoch:
                yield self._plan(cursor, order.batch(cursor.step))
                cursor = cursor.advance(order.steps)

    def _plan(self, cursor: DataCursor, numbers: Int64Array) -> _PlannedStep:
        """Select this rank's part of a global batch, [G] sample numbers by slot."""
        if self._by_length:
            lengths = np.zeros_like(numbers)
            lengths[numbers != EMPTY] = self.reader.lengths(numbers[numbers != EMPTY], self.spec.modalities)
            numbers = by_length(numbers, lengths)
        # After the sort, so that all other samples keep their slots.
        left_out = self.excluded.mask(numbers)
        filled = (numbers != EMPTY) & ~left_out
        slots, excluded = [], []
        for micro in range(self._accumulation):
            part = rank_slots(micro_slots(len(numbers), self._accumulation, micro), self._rank, self._world)
            own_slots = np.arange(part.start, part.stop)
            slots.append(own_slots[filled[own_slots]])
            excluded.append(numbers[own_slots[left_out[own_slots]]])
        # Over the whole global batch, so that the length does not depend on the number of ranks.
        all_numbers = numbers[filled] if self.spec.common_length else None
        return _PlannedStep(cursor, slots, numbers[np.concatenate(slots)], all_numbers, np.concatenate(excluded))

    def _skip_failures(self, step: _PlannedStep, result: ReadResult) -> tuple[_PlannedStep, Samples, Sequence[LeftOut]]:
        """Remove samples that could not be read from a step, and return them by name, with the reason.

        Raises:
            DataError, CorruptDataError, StorageError: A sample must not be skipped.
        """
        if not result.failures:
            return step, result.samples, ()
        for each in result.failures.values():
            # Only damage and outages: skipping would hide a missing file.
            if not (self._skip and isinstance(each.error, CorruptDataError | StorageError)):
                raise each.error
        remains = np.ones(len(step.numbers), bool)
        remains[list(result.failures)] = False
        ends = np.cumsum([len(part) for part in step.slots])
        parts = np.split(remains, ends[:-1])
        slots = [slots[part] for slots, part in zip(step.slots, parts, strict=True)]
        remaining = replace(step, slots=slots, numbers=step.numbers[remains])
        return remaining, result.samples, [LeftOut(each.name, str(each.error)) for each in result.failures.values()]

    def _micro_batches(self, step: _PlannedStep, samples: Samples) -> list[Batch]:
        steps = None
        if step.all_numbers is not None:
            steps = int(self.reader.lengths(step.all_numbers, self.spec.modalities).max(initial=1))
        batches, first = [], 0
        for slots in step.slots:
            end = first + len(slots)
            batches.append(collate(samples.rows(first, end), slots, step.numbers[first:end], self.spec, steps))
            first = end
        return [batch.pinned() for batch in batches] if self._pin else batches


@dataclass(frozen=True)
class _PlannedStep:
    """Samples that one rank reads for one step."""

    cursor: DataCursor
    slots: list[Int64Array]
    """By micro-step: the slots that hold a sample, ascending."""
    numbers: Int64Array
    """Number of the sample of each of these slots, micro-step after micro-step."""
    all_numbers: Int64Array | None
    """Numbers of the samples of all ranks, where the batch's length depends on them."""
    excluded: Int64Array
    """Numbers of this rank's samples that are left out."""
