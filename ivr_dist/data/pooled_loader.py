"""Data loader of a pool: the batches of one rank from several corpora, prefetched by one background thread.

Each step is one request for the samples of all corpora, and each micro-batch one collation: a request and a collation
for each corpus would cost three times as much with eight corpora.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import tee
from typing import Any

import numpy as np

from ivr_dist.data.background_stream import OneStream
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.pool_collate import collate_pool
from ivr_dist.data.batches.pool_spec import PoolSpec
from ivr_dist.data.batches.pooled_rows import PooledRows
from ivr_dist.data.exclusions import NOTHING, Exclusions
from ivr_dist.data.reading.pool_reader import PoolReader, PoolResult
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.data.run_order import RunOrder
from ivr_dist.data.sample_order import EMPTY, Int64Array, by_length, micro_slots, rank_slots
from ivr_dist.data.step_batches import LeftOut, StepBatches, closing, timed
from ivr_dist.errors import ConfigError, CorruptDataError, StorageError
from ivr_dist.shards.sample_columns import Samples


class PooledLoader:
    """Reads one rank's slots of every global batch of a pool.

    Only one stream of batches is open at a time: a new one closes the previous one. Use it as a context manager, or
    call `close`.

    Args:
        reader: Reads the training splits; closed with the loader.
        spec: Contents of the batches.
        order: Order of the run.
        accumulation: Micro-steps of a global batch.
        rank: This rank, 0..world-1.
        world: Number of ranks; need not divide the global batch.
        prefetch: Number of steps to prefetch, at least 1.
        by_length: Whether the slots of each global batch are sorted by length.
        skip: Whether a sample that cannot be read leaves its slot empty; otherwise it is an error.
        pin: Whether the background thread copies batches to page-locked memory.
        excluded: By number of the corpus: samples that are left out; their slots stay empty, and they are not read.

    Raises:
        ConfigError: `prefetch` is less than 1.
        DataError: A split lacks contents of the batches.
    """

    def __init__(
        self,
        reader: PoolReader,
        spec: PoolSpec,
        order: RunOrder[Any],
        *,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
        prefetch: int = 4,
        by_length: bool = False,
        skip: bool = False,
        pin: bool = False,
        excluded: Mapping[int, Exclusions] | None = None,
    ) -> None:
        if prefetch < 1:
            raise ConfigError(f"data.prefetch is {prefetch}", remedy="set it to 1 or more")
        for number, manifest in reader.manifests.items():
            spec.check_split(number, manifest)
        self.reader = reader
        self.spec = spec
        self.order = order
        self._accumulation = accumulation
        self._rank = rank
        self._world = world
        self._prefetch = prefetch
        self._by_length = by_length
        self._skip = skip
        self._pin = pin
        self._excluded = excluded or {}
        self._modalities = {number: list(spec.layout.corpora[number].sets) for number in reader.manifests}
        self._stream = OneStream()

    def __enter__(self) -> PooledLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def start(self) -> Any:
        """Cursor of the first step."""
        return self.order.start

    def steps(self, cursor: Any) -> Iterator[StepBatches]:
        """Iterate over the steps from `cursor` on, epoch after epoch without end; reading starts with the call.

        Args:
            cursor: A position of the loader's order.

        Raises:
            CheckpointMismatchError: The cursor belongs to another order.
            CorruptDataError: Data does not match its checksum or layout; raised by the iterator at that step.
            StorageError: Storage failed; likewise.
        """
        cursor.check_matches(self.start)
        return timed(self._stream.open(self._produce_steps(cursor), self._prefetch))

    def advance(self, cursor: Any) -> Any:
        """Return the position after one more step."""
        return self.order.advance(cursor)

    def left_out(self, cursor: Any) -> list[LeftOut]:
        """Look up this rank's samples in a step that is not trained; only indexes are read.

        Samples that the run leaves out are not among them.

        Raises:
            DataError, CorruptDataError, StorageError: An index cannot be read.
        """
        step = self._plan(cursor)
        return self._named(step.corpus, step.numbers, step.passes)

    def meters(self) -> dict[str, float]:
        """Return statistics of this rank's reader so far: counts, milliseconds and bytes, by name."""
        return self.reader.meters()

    def close(self) -> None:
        """End the background thread and close the reader; may be called again."""
        self._stream.close()
        self.reader.close()

    def _produce_steps(self, cursor: Any) -> Iterator[StepBatches]:
        planned, requested = tee(self._plans(cursor))
        results = self.reader.read_ahead((step.corpus, step.numbers) for step in requested)
        for step, result in zip(planned, results, strict=True):
            yield self._step_batches(step, result)

    def _plans(self, cursor: Any) -> Iterator[_PlannedStep]:
        while True:
            step = self._plan(cursor)
            yield step
            cursor = step.next_cursor

    def _plan(self, cursor: Any) -> _PlannedStep:
        """Select this rank's part of a global batch."""
        batch = self.order.batch(cursor)
        corpus, numbers, passes = batch.corpus, batch.numbers, batch.passes
        if self._by_length:
            lengths = np.full(len(numbers), np.iinfo(np.int64).max)
            filled = numbers != EMPTY
            lengths[filled] = self.reader.lengths(corpus[filled], numbers[filled], self._modalities)
            places = by_length(np.arange(len(numbers)), lengths)
            corpus, numbers, passes = corpus[places], numbers[places], passes[places]
        left_out = np.zeros(len(numbers), bool)
        for number, excluded in self._excluded.items():
            left_out |= (corpus == number) & excluded.mask(numbers)
        filled = (numbers != EMPTY) & ~left_out
        slots, others = [], []
        for micro in range(self._accumulation):
            part = rank_slots(micro_slots(len(numbers), self._accumulation, micro), self._rank, self._world)
            own = np.arange(part.start, part.stop)
            slots.append(own[filled[own]])
            others.append(own[left_out[own]])
        own, excluded_slots = np.concatenate(slots), np.concatenate(others)
        return _PlannedStep(
            cursor,
            self.order.advance(cursor),
            slots,
            corpus[own],
            numbers[own],
            passes[own],
            (corpus[excluded_slots], numbers[excluded_slots], passes[excluded_slots]),
        )

    def _step_batches(self, step: _PlannedStep, result: PoolResult) -> StepBatches:
        """Build the batches of one step; slots of samples that may be skipped and could not be read stay empty."""
        skipped = []
        for place, failure in sorted(result.failures.items()):
            # Only damage and outages: skipping would hide a missing file.
            if not (self._skip and isinstance(failure.error, CorruptDataError | StorageError)):
                raise failure.error
            name = self.spec.layout.corpora[int(step.corpus[place])].name
            skipped.append(LeftOut(failure.name, str(failure.error), name, int(step.passes[place])))
        batches, passes, first = [], [], 0
        for slots in step.slots:
            own = np.arange(first, first + len(slots))
            first += len(slots)
            if skipped:
                remains = result.rows[own] >= 0
                slots, own = slots[remains], own[remains]
            rows = PooledRows(result.parts, result.part[own], result.rows[own], step.corpus[own])
            batch = collate_pool(rows, slots, step.numbers[own], self.spec)
            batches.append(batch.pinned() if self._pin else batch)
            passes.append(step.passes[own])
        return StepBatches(step.cursor, step.next_cursor, batches, skipped, self._named(*step.excluded), passes=passes)

    def _named(self, corpus: Int64Array, numbers: Int64Array, passes: Int64Array) -> list[LeftOut]:
        """Look up samples by corpus, number and pass."""
        if not len(corpus):
            return []
        names = self.reader.names(corpus, numbers)
        used = zip(names, corpus.tolist(), passes.tolist(), strict=True)
        return [LeftOut(name, corpus=self.spec.layout.corpora[own].name, number=number) for name, own, number in used]


@dataclass(frozen=True)
class _PlannedStep:
    """Samples that one rank reads for one step."""

    cursor: Any
    next_cursor: Any
    slots: list[Int64Array]
    """By micro-step: the slots that hold a sample, ascending."""
    corpus: Int64Array
    """Number of the corpus of each of these slots, micro-step after micro-step."""
    numbers: Int64Array
    passes: Int64Array
    excluded: tuple[Int64Array, Int64Array, Int64Array]
    """Corpus, number and pass of this rank's samples that are left out."""


class PooledSplitLoader:
    """Reads every sample of one split of one corpus of a pool once over all ranks, in manifest order.

    Args:
        reader: Reads the split; closed with the loader.
        spec: Contents of the batches.
        number: Number of the corpus.
        batch: Samples of a batch over all ranks.
        rank: This rank, 0..world-1.
        world: Number of ranks.
        prefetch: Number of batches to prefetch.
        pin: Whether the background thread copies batches to page-locked memory.
        excluded: Samples that are left out.
    """

    def __init__(
        self,
        reader: ShardReader,
        spec: PoolSpec,
        number: int,
        *,
        batch: int,
        rank: int = 0,
        world: int = 1,
        prefetch: int = 4,
        pin: bool = False,
        excluded: Exclusions = NOTHING,
    ) -> None:
        spec.check_split(number, reader.manifest)
        self.reader = reader
        self.excluded = excluded
        """Samples that are left out."""
        self._spec = spec
        self._number = number
        self._batch = batch
        self._rank = rank
        self._world = world
        self._prefetch = prefetch
        self._pin = pin
        self._stream = OneStream()

    def __enter__(self) -> PooledSplitLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def eval_batches(self) -> Iterator[Batch]:
        """Iterate over this rank's batches; every rank has the same number of them."""
        return closing(self._stream.open(self._produce(), self._prefetch))

    def close(self) -> None:
        """End the background thread and close the reader; may be called again."""
        self._stream.close()
        self.reader.close()

    def _produce(self) -> Iterator[Batch]:
        planned, requested = tee(self._plans())
        results = self.reader.read_ahead(numbers for _, numbers in requested)
        for (slots, numbers), result in zip(planned, results, strict=True):
            samples: Samples = result.all_or_raise()
            rows = PooledRows.of_corpus(samples, self._number)
            batch = collate_pool(rows, slots, numbers, self._spec)
            yield batch.pinned() if self._pin else batch

    def _plans(self) -> Iterator[tuple[Int64Array, Int64Array]]:
        for first in range(0, self.reader.manifest.samples, self._batch):
            part = rank_slots(range(self._batch), self._rank, self._world)
            numbers = np.arange(first + part.start, first + part.stop)
            kept = (numbers < self.reader.manifest.samples) & ~self.excluded.mask(numbers)
            yield np.arange(part.start, part.stop)[kept], numbers[kept]
