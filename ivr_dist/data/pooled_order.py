"""Order of a pool: the samples of several corpora in the slots of each global batch, as a pure function.

1. An epoch of a phase has E slots, of which corpus c owns its quota e_c. `MixingTree` tells how many of the first n
   slots belong to each corpus, K_c(n).
2. Step k of an epoch holds uses [U_c + K_c(k G), U_c + K_c((k + 1) G)) of corpus c, where U_c counts the uses in all
   epochs and phases before.
3. Use u of a corpus of N samples is item j = u mod N of pass u // N. Item j is output j // L of lane spread[j mod L]
   of the corpus' own `EpochOrder` of that pass; `spread` reverses bits, so that successive uses come from lanes far
   apart, and begins with a lane by the identity of the corpus, so that corpora of equal quotas do not all come from
   one lane in one step. In the last outputs, lanes that are one shorter are left out: each pass has each sample once.
4. The slots of a step are its uses by the position of their lane, (2 lane + 1) / 2 L, so that a rank keeps reading the
   lanes that it has.

Nothing depends on the number of workers, and any step is computed without those before it. All numbers are whole.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ivr_dist.data.pool_cursor import CorpusIdentity, PoolCursor, check_same_mix
from ivr_dist.data.run_order import GlobalBatch
from ivr_dist.data.sample_order import EMPTY, EpochOrder, Int64Array
from ivr_dist.planning.mixing_tree import MixingTree
from ivr_dist.planning.pool_plan import Phase, PooledCorpus

_CHUNK_SLOTS = 8192
"""Slots that are worked out at once: a call for each corpus and step would take ten times as long."""
_POSITION_BITS = 32
_KEPT_PASSES = 2


class PooledOrder:
    """The order of a run on several corpora; implements `RunOrder`.

    Args:
        corpora: Trained corpora, in the order of their numbers; their order has no influence otherwise.
        phases: Phases of the run, the first of which begins at step 0.
        seed: Any integer.
        global_batch: Slots of a global batch, G.
        numbers: Number of each corpus in global batches; unset: its place in `corpora`.
    """

    def __init__(
        self,
        corpora: Sequence[PooledCorpus],
        phases: Sequence[Phase],
        seed: int,
        global_batch: int,
        numbers: Mapping[str, int] | None = None,
    ) -> None:
        self.corpora = tuple(corpus.name for corpus in corpora)
        self.phases = tuple(phases)
        self.global_batch = global_batch
        self._seed = seed
        self._corpora = {corpus.name: corpus for corpus in corpora}
        self._streams = {corpus.name: _CorpusUses(corpus, seed) for corpus in corpora}
        self._numbers = numbers or {name: number for number, name in enumerate(self.corpora)}
        self._identities = {
            corpus.name: CorpusIdentity(
                manifest_id=corpus.manifest_id,
                samples=corpus.samples,
                lanes=corpus.lanes,
                delay=corpus.delay,
                first_use=corpus.first_use,
                excluded=corpus.excluded,
            )
            for corpus in corpora
        }
        self._first_steps = [phase.first_step for phase in phases]
        self._epoch_steps = [phase.steps_per_epoch(global_batch) for phase in phases]
        self._trees = [MixingTree(phase.quotas) for phase in phases]
        self._first_epochs = [0]
        """Epochs begun before each phase."""
        self._first_uses = [{corpus.name: corpus.first_use for corpus in corpora}]
        """Uses of each corpus before each phase."""
        for number in range(len(self.phases) - 1):
            steps = self.phases[number + 1].first_step - self.phases[number].first_step
            self._first_epochs.append(self._first_epochs[-1] + -(-steps // self._epoch_steps[number]))
            self._first_uses.append(self._uses_within(number, steps))
        # Replaced as a whole, because the thread of the loader and that of the training loop share the order.
        self._chunk = _Chunk(0, np.empty((3, 0, global_batch), np.int64), np.empty((0, len(corpora)), np.int64))

    @property
    def start(self) -> PoolCursor:
        """Cursor of the first step."""
        return self.at(0)

    def batch(self, cursor: PoolCursor) -> GlobalBatch:
        """Compute the global batch at a position.

        Args:
            cursor: A position of this order.
        """
        if not 0 <= cursor.step < self._epoch_steps[cursor.phase]:
            raise IndexError(f"step {cursor.step} of an epoch of {self._epoch_steps[cursor.phase]} steps")
        step, chunk = self.step_of(cursor), self._chunk
        if not 0 <= step - chunk.first < chunk.slots.shape[1]:
            self._chunk = chunk = self._chunk_at(cursor)
        return GlobalBatch(*chunk.slots[:, step - chunk.first])

    def advance(self, cursor: PoolCursor) -> PoolCursor:
        """Return the position after one more step."""
        return self.at(self.step_of(cursor) + 1)

    def at(self, step: int) -> PoolCursor:
        """Return the position of a step of the run, counted from 0 over all epochs and phases."""
        phase = bisect_right(self._first_steps, step) - 1
        epoch, step_of_epoch = divmod(step - self._first_steps[phase], self._epoch_steps[phase])
        return PoolCursor(
            seed=self._seed,
            global_batch=self.global_batch,
            phase=phase,
            epoch=self._first_epochs[phase] + epoch,
            step=step_of_epoch,
            phases=self.phases,
            corpora=self._identities,
            uses=self.uses(step),
        )

    def step_of(self, cursor: PoolCursor) -> int:
        """Return the step of the run at a position, the inverse of `at`."""
        epochs = cursor.epoch - self._first_epochs[cursor.phase]
        return self._first_steps[cursor.phase] + epochs * self._epoch_steps[cursor.phase] + cursor.step

    def uses(self, step: int) -> dict[str, int]:
        """Count the uses of each corpus before a step of the run, with those of an earlier run that it goes on with."""
        chunk = self._chunk
        if 0 <= step - chunk.first < len(chunk.uses):
            return dict(zip(self.corpora, chunk.uses[step - chunk.first].tolist(), strict=True))
        phase = bisect_right(self._first_steps, step) - 1
        return self._uses_within(phase, step - self._first_steps[phase])

    def resumed(self, cursor: PoolCursor, changes: bool) -> tuple[PooledOrder, PoolCursor]:
        """Continue a run whose checkpoint holds `cursor`, by its own phases, lanes and delays.

        Args:
            cursor: The checkpoint's position.
            changes: Whether other quotas from its step on than the checkpoint's are allowed; they begin a phase there.

        Returns:
            The order, and its position to continue at.

        Raises:
            CheckpointMismatchError: The checkpoint's order is another one.
        """
        cursor.check_same_data(self.start)
        # Lanes and delays follow from the mix that the run began with; others would order its passes anew.
        positions = cursor.corpora
        corpora = [
            replace(corpus, lanes=positions[name].lanes, delay=positions[name].delay)
            for name, corpus in self._corpora.items()
        ]
        begun = PooledOrder(corpora, cursor.phases, self._seed, self.global_batch, self._numbers)
        step = begun.step_of(cursor)
        there, here = begun._phases_from(step), self._phases_from(step)
        if there == here:
            return begun, begun.at(step)
        if not changes:
            check_same_mix(there, here)
        past = [phase for phase in cursor.phases if phase.first_step < step]
        order = PooledOrder(corpora, [*past, *here], self._seed, self.global_batch, self._numbers)
        return order, order.at(step)

    def _phases_from(self, step: int) -> list[Phase]:
        """The phases from a step on, the first of which begins there."""
        now = bisect_right(self._first_steps, step) - 1
        return [Phase(step, self.phases[now].quotas), *self.phases[now + 1 :]]

    def _uses_within(self, phase: int, steps: int) -> dict[str, int]:
        """Uses of each corpus before the step that many steps after the beginning of a phase."""
        epochs, step = divmod(steps, self._epoch_steps[phase])
        tree = self._trees[phase]
        counts = tree.counts(min(step * self.global_batch, tree.total))
        return {
            name: before + epochs * tree.quotas.get(name, 0) + counts.get(name, 0)
            for name, before in self._first_uses[phase].items()
        }

    def _chunk_at(self, cursor: PoolCursor) -> _Chunk:
        """Compute the chunk of steps that holds a position."""
        size, phase, tree = self.global_batch, cursor.phase, self._trees[cursor.phase]
        chunk_steps = max(1, _CHUNK_SLOTS // size)
        first = cursor.step - cursor.step % chunk_steps
        first_step = self.step_of(cursor) - (cursor.step - first)
        steps = min(chunk_steps, self._epoch_steps[phase] - first)
        if phase + 1 < len(self.phases):
            # A phase may end within an epoch.
            steps = min(steps, self._first_steps[phase + 1] - first_step)
        epoch = cursor.epoch - self._first_epochs[phase]
        before = self._uses_within(phase, epoch * self._epoch_steps[phase])
        counts = tree.counts_at(np.minimum(np.arange(first, first + steps + 1, dtype=np.int64) * size, tree.total))
        columns: list[tuple[Int64Array, ...]] = []
        # By name, so that the order of the config has no influence.
        for rank, name in enumerate(sorted(self.corpora)):
            ends = counts.get(name, np.zeros(steps + 1, np.int64))
            uses = int(ends[-1] - ends[0])
            if not uses:
                continue
            numbers, positions, passes = self._streams[name].uses(before[name] + int(ends[0]), uses)
            step_of_use = np.repeat(np.arange(steps), np.diff(ends))
            corpus = np.full(uses, self._numbers[name])
            columns.append((corpus, numbers, passes, positions, np.full(uses, rank), np.arange(uses), step_of_use))
        corpus, numbers, passes, positions, ranks, nth, step_of_use = map(np.concatenate, zip(*columns, strict=True))
        order = np.lexsort((nth, ranks, positions, step_of_use))
        # All steps but the last one of the epoch are full.
        found = np.zeros((3, steps * size), np.int64)
        found[1] = EMPTY
        for row, column in enumerate((corpus, numbers, passes)):
            found[row, : len(order)] = column[order]
        none = np.zeros(steps + 1, np.int64)
        uses_before = np.stack([before[name] + counts.get(name, none) for name in self.corpora], axis=1)
        return _Chunk(first_step, found.reshape(3, steps, size), uses_before)


@dataclass(frozen=True)
class _Chunk:
    """Steps that were worked out at once."""

    first: int
    """Step of the run that it begins with."""
    slots: Int64Array
    """[3, steps, G] corpus, number and pass of each slot."""
    uses: Int64Array
    """[steps + 1, corpora] uses before each step, and after the last one."""


class _CorpusUses:
    """The uses 0, 1, 2, ... of the samples of one corpus: pass after pass, each sample once in each."""

    def __init__(self, corpus: PooledCorpus, seed: int) -> None:
        self._corpus = corpus
        self._seed = seed
        self._samples = corpus.samples
        lanes = corpus.lanes
        # Not by the seed or the pool: the passes of a corpus may go on in a run with other corpora.
        first = int.from_bytes(hashlib.sha256(corpus.manifest_id.encode()).digest()[:8], "little") % lanes
        self._spread = np.roll(_bit_reversed(lanes), -first)
        self._positions = ((2 * np.arange(lanes, dtype=np.int64) + 1) << (_POSITION_BITS - 1)) // lanes
        self._last_output = -(-self._samples // lanes) - 1
        lengths = np.diff(np.arange(lanes + 1, dtype=np.int64) * self._samples // lanes)
        self._last_lanes = self._spread[lengths[self._spread] > self._last_output]
        self._orders: dict[int, EpochOrder] = {}

    def uses(self, first: int, count: int) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Sample number, position of its lane, and pass of uses [first, first + count), [count] each."""
        parts = []
        while count:
            number, item = divmod(first, self._samples)
            size = min(count, self._samples - item)
            outputs, columns = np.divmod(np.arange(item, item + size, dtype=np.int64), self._corpus.lanes)
            lanes = self._spread[columns]
            last = outputs == self._last_output
            lanes[last] = self._last_lanes[columns[last]]
            numbers = self._order(number).numbers_at(lanes, outputs)
            parts.append((numbers, self._positions[lanes], np.full(size, number, np.int64)))
            first, count = first + size, count - size
        numbers, positions, passes = map(np.concatenate, zip(*parts, strict=True))
        return numbers, positions, passes

    def _order(self, number: int) -> EpochOrder:
        if number not in self._orders:
            while len(self._orders) >= _KEPT_PASSES:
                del self._orders[next(iter(self._orders))]
            corpus = self._corpus
            self._orders[number] = EpochOrder(
                corpus.shard_samples,
                corpus.manifest_id,
                self._seed,
                number,
                corpus.lanes,
                corpus.lanes,
                corpus.delay,
            )
        return self._orders[number]


def _bit_reversed(count: int) -> Int64Array:
    """Numbers 0..count-1 such that any run of them is spread evenly (van der Corput's sequence)."""
    bits = max(1, (count - 1).bit_length())
    numbers = [int(format(number, f"0{bits}b")[::-1], 2) for number in range(1 << bits)]
    return np.array([number for number in numbers if number < count], np.int64)
