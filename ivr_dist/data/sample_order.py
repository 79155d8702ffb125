"""Sample order (shuffling): the sample of each slot of each global batch, as a pure function.

An epoch's order is computed in four steps, none of which depends on the number of workers:

1. the shards are permuted by a hash of (data set, seed, epoch, shard); their concatenation is a line of N positions;
2. the line is cut into L lanes, lane l holding positions [l N // L, (l + 1) N // L);
3. a lane's items are put in the order of their keys i + u D, where u in [0, 1) is a hash of (data set, seed, epoch,
   lane, i): a shuffle in which no sample moves by D positions or more;
4. global batch k takes outputs [k b, (k + 1) b) of every lane, b = G / L; slot s belongs to lane s // b.

Only afterwards do micro-steps and ranks take ranges of slots (`micro_slots`, `rank_slots`). An item's output position
differs from its own by less than D, so outputs [a, b) need only the items [a - D, b + D): any step of a billion samples
costs O(L D) hashes, and no array of N entries exists. All arithmetic is on 64-bit integers, so the order is the same on
every machine and version.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from ivr_dist.config.lanes import check_layout

Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]

EMPTY = -1
"""Number in a slot without a sample (last step of an epoch)."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_KEY_BITS = 20
_MAX_KEY = np.iinfo(np.int64).max
_MIN_CHUNK = 256
_BLOCK_ITEMS = 1 << 20
_SHARDS_STREAM = 0
_LANES_STREAM = 1


def mix64(state: UInt64Array) -> UInt64Array:
    """Finalize 64-bit states in place with splitmix64's bijection (Steele, Lea and Flood 2014, variant 13 of Stafford).

    Args:
        state: any shape with at least one dimension, overwritten.
    """
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state


def hash64(*words: int | Int64Array) -> UInt64Array:
    """Hash a tuple of integers; array words broadcast. Returns at least one dimension."""
    state = np.zeros(1, np.uint64)
    for word in words:
        bits = np.uint64(word & 0xFFFFFFFFFFFFFFFF) if isinstance(word, int) else word.astype(np.uint64)
        state = mix64((state ^ bits) + _GOLDEN)
    return state


def by_length(numbers: Int64Array, lengths: Int64Array) -> Int64Array:
    """Sort the samples of a global batch by length, shortest first, with empty slots last.

    Each rank and micro-step then has samples of similar length, and little padding. The batch as a whole is the same.

    Args:
        numbers: [G] sample of each slot, or EMPTY.
        lengths: [G] time steps of each; ignored for empty slots.
    """
    order = np.lexsort((np.arange(len(numbers)), lengths, numbers == EMPTY))
    return numbers[order]


# decision 035
def micro_slots(global_batch: int, accumulation: int, micro: int) -> range:
    """Return the slots of one micro-step (0..accumulation-1) over all ranks."""
    return range(global_batch * micro // accumulation, global_batch * (micro + 1) // accumulation)


def rank_slots(slots: range, rank: int, world: int) -> range:
    """Return the part of contiguous `slots` of one rank; parts differ by at most one slot and may be empty."""
    count = len(slots)
    return range(slots.start + count * rank // world, slots.start + count * (rank + 1) // world)


class ShardTable:
    """Maps sample numbers in manifest order, 0..total-1, to shards.

    Args:
        shard_samples: [S] samples of each shard, in manifest order; shards of 0 samples are allowed.
    """

    def __init__(self, shard_samples: Int64Array) -> None:
        self.starts: Int64Array = np.concatenate([[0], np.cumsum(shard_samples)]).astype(np.int64)
        """[S + 1] number of the first sample of each shard, and the total."""
        self.total = int(self.starts[-1])

    def locate(self, numbers: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Split sample numbers (any shape, each 0..total-1) into shard and row in the shard."""
        shards = np.searchsorted(self.starts, numbers, side="right") - 1
        return shards, numbers - self.starts[shards]


class EpochOrder:
    """The global batches of one epoch.

    Sequential access is cheap: outputs are computed for a chunk of steps at a time, and the newest chunk is kept.

    Args:
        shard_samples: [S] samples of each shard, in manifest order.
        manifest_id: Identity of the data set; enters every hash.
        seed: Any integer.
        epoch: 0, 1, 2, ...
        lanes: L, a divisor of `global_batch`.
        global_batch: G, slots of a global batch.
        delay: D, samples by which one may move within its lane; 0 keeps the order inside a lane.
        shuffle: Whether to shuffle; otherwise samples are in manifest order, for any lanes, delay, seed and epoch.

    Raises:
        ConfigError: The layout is impossible.
    """

    def __init__(
        self,
        shard_samples: Int64Array,
        manifest_id: str,
        seed: int,
        epoch: int,
        lanes: int,
        global_batch: int,
        delay: int,
        shuffle: bool = True,
    ) -> None:
        check_layout(lanes, global_batch, delay)
        self.global_batch = global_batch
        self.shuffle = shuffle
        self.table = ShardTable(shard_samples)
        self._lane_batch = global_batch // lanes
        self._delay = delay
        total = self.table.total
        borders = np.arange(lanes + 1, dtype=np.int64) * total // lanes
        self._lane_starts = borders[:-1]
        self._lane_lengths = np.diff(borders)
        self._longest = -(-total // lanes)
        self.steps = -(-self._longest // self._lane_batch) if shuffle else -(-total // global_batch)
        """Number of global batches of the epoch; only the last one may have empty slots."""
        if shuffle:
            data_set = int.from_bytes(hashlib.sha256(manifest_id.encode()).digest()[:8], "little")
            self._permute_shards(hash64(data_set, seed, epoch, _SHARDS_STREAM), np.asarray(shard_samples, np.int64))
            self._streams = hash64(data_set, seed, epoch, _LANES_STREAM, np.arange(lanes, dtype=np.int64))
            steps_in_chunk = -(-max(2 * delay, _MIN_CHUNK) // self._lane_batch)
            self._chunk_outputs = max(1, min(steps_in_chunk, self.steps)) * self._lane_batch
            self._chunk_number = -1
            self._chunk = np.empty((lanes, 0), np.int64)

    def batch(self, step: int) -> Int64Array:
        """Compute the sample numbers (manifest order) by slot, [G]; EMPTY where the last step has no sample.

        Args:
            step: 0..steps-1.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of an epoch of {self.steps} steps")
        if not self.shuffle:
            numbers = np.arange(step * self.global_batch, (step + 1) * self.global_batch, dtype=np.int64)
            return np.where(numbers < self.table.total, numbers, EMPTY)
        number, first = divmod(step * self._lane_batch, self._chunk_outputs)
        return self._chunk_of(number)[:, first : first + self._lane_batch].flatten()

    def numbers_at(self, lanes: Int64Array, outputs: Int64Array) -> Int64Array:
        """Compute the sample numbers of single outputs of lanes, [n].

        Args:
            lanes: [n] lane of each, 0..L-1.
            outputs: [n] number of the output in its lane, ascending; the lane must have it. Only of a shuffled order.
        """
        found, first = np.empty(len(outputs), np.int64), 0
        while first < len(outputs):
            number = int(outputs[first]) // self._chunk_outputs
            end = int(np.searchsorted(outputs, (number + 1) * self._chunk_outputs))
            chunk = self._chunk_of(number)
            found[first:end] = chunk[lanes[first:end], outputs[first:end] - number * self._chunk_outputs]
            first = end
        return found

    def _chunk_of(self, number: int) -> Int64Array:
        if number != self._chunk_number:
            self._chunk = self._outputs(number * self._chunk_outputs)
            self._chunk_number = number
        return self._chunk

    def _permute_shards(self, stream: UInt64Array, shard_samples: Int64Array) -> None:
        """Arrange the shards on the line of positions: `_line_ends` [S], `_line_shift` [S] from position to number."""
        order = np.argsort(_draws(stream, np.arange(len(shard_samples), dtype=np.int64))[0], kind="stable")
        self._line_ends = np.cumsum(shard_samples[order])
        self._line_shift = self.table.starts[:-1][order] - (self._line_ends - shard_samples[order])

    def _outputs(self, first: int) -> Int64Array:
        """Compute outputs [first, first + chunk) of every lane as sample numbers, [L, chunk]."""
        outputs = np.full((len(self._streams), self._chunk_outputs), EMPTY, np.int64)
        low = max(0, first - self._delay)
        items = np.arange(low, min(self._longest, first + self._chunk_outputs + self._delay), dtype=np.int64)
        targets = np.arange(first, min(self._longest, first + self._chunk_outputs), dtype=np.int64)
        block = max(1, _BLOCK_ITEMS // len(items))
        for start in range(0, len(self._streams), block):
            lanes = slice(start, start + block)
            lengths = self._lane_lengths[lanes, None]
            keys = np.where(items < lengths, self._keys(self._streams[lanes], items), _MAX_KEY)
            # The first `low` outputs are exactly the items before the window, so output positions start from there.
            ordered = np.argsort(keys, axis=1, kind="stable")[:, first - low : first - low + len(targets)]
            positions = self._lane_starts[lanes, None] + items[ordered]
            outputs[lanes, : len(targets)] = np.where(targets < lengths, self._numbers(positions), EMPTY)
        return outputs

    def _keys(self, streams: UInt64Array, items: Int64Array) -> Int64Array:
        """Compute sort keys in units of 2^-20 positions, [streams, items]; ties are broken by item."""
        delays = (_draws(streams, items) >> np.uint64(64 - _KEY_BITS)).astype(np.int64) * self._delay
        return (items << _KEY_BITS) + delays

    def _numbers(self, positions: Int64Array) -> Int64Array:
        """Convert positions on the line to sample numbers; those past its end become arbitrary numbers."""
        shards = np.searchsorted(self._line_ends, np.minimum(positions, self.table.total - 1), side="right")
        return positions + self._line_shift[shards]


def _draws(streams: UInt64Array, counters: Int64Array) -> UInt64Array:
    """Draw number `counter` of each splitmix64 stream, [streams, counters]."""
    return mix64(streams[:, None] + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
