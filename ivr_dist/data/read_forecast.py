"""Read forecast: bytes, cache size and padding of each rank for a sample order, computed from the indexes only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ivr_dist.config import Config
from ivr_dist.config.corpora import SplitKey, split_urls, trained
from ivr_dist.data.build_order import build_order
from ivr_dist.data.exclusions import Exclusions
from ivr_dist.data.reading.fetcher import Content
from ivr_dist.data.reading.segment_cache import Segment, SegmentCache
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.data.run_order import RunOrder
from ivr_dist.data.sample_order import EMPTY, Int64Array, by_length, micro_slots, rank_slots
from ivr_dist.planning.plan import Plan
from ivr_dist.planning.pool_table import CorpusReading
from ivr_dist.shards.manifest import Manifest
from ivr_dist.units import format_bytes, parse_bytes

_HASHED_STEPS = 8
_MOST_STEPS = 200


@dataclass(frozen=True)
class Forecast:
    """Reading of one world size, over the first steps of an epoch."""

    steps: int
    """Number of steps simulated."""
    order_hash: str
    """Hash of the first global batches: equal if the same batches come in the same order."""
    rank_bytes: tuple[int, int]
    """Minimum and maximum over ranks of the average bytes of samples of a step."""
    amplification: float
    """Bytes fetched for each byte needed, over all ranks; below 1 where samples are read again from memory."""
    resident_bytes: int
    """Maximum bytes of segments that a rank has in memory at a time."""
    padding: float | None
    """Share of padding in the time steps of micro-batches, of the longest modality; None where only transcripts are
    read, whose lengths are not in the indexes."""
    padding_by_length: float | None
    """The same with `data.by_length`."""
    corpora: Mapping[str, CorpusReading] = field(default_factory=dict)
    """By corpus of a pool, with the order of slots that the config sets."""

    def to_json(self) -> dict[str, Any]:
        """Convert the figures of all corpora together to JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "corpora"}

    def rows(self) -> list[tuple[str, str]]:
        """Make the rows of the table that `plan` prints."""
        least, most = (format_bytes(value) for value in self.rank_bytes)
        return [
            ("hash of the first batches", self.order_hash),
            (f"read a worker and step (of {self.steps} steps)", least if least == most else f"{least} to {most}"),
            ("bytes fetched for each byte read", f"{self.amplification:.2f}"),
            ("segments in memory, a worker", format_bytes(self.resident_bytes)),
            ("padding; with data.by_length", self._padding()),
        ]

    def _padding(self) -> str:
        if self.padding is None or self.padding_by_length is None:
            return "not known: transcripts, whose lengths are not in the indexes"
        return f"{self.padding:.1%}; {self.padding_by_length:.1%}"


def forecasts(
    config: Config,
    manifests: Mapping[str, Manifest],
    plans: Sequence[Plan],
    excluded: Mapping[str, Exclusions] | None = None,
) -> list[Forecast]:
    """Forecast the reading of the training data for each plan of one config.

    Args:
        config: The run's config.
        manifests: Manifests of its splits, by the text of their `SplitKey`.
        plans: One for each number of workers.
        excluded: By split: samples that the run leaves out, which are not read.

    Raises:
        DataError, CorruptDataError, StorageError: An index cannot be read.
    """
    urls = split_urls(config)
    keys = [str(SplitKey(name, "train")) for name in trained(config)]
    readers = {number: ShardReader(urls[key], manifests[key], 0) for number, key in enumerate(keys)}
    pairs = zip(trained(config), keys, strict=True)
    names = {name or manifests[key].corpus: number for number, (name, key) in enumerate(pairs)}
    excluded = excluded or {}
    left_out = {number: excluded[key] for number, key in enumerate(keys) if key in excluded}
    try:
        order = build_order(config, plans[0], manifests, names)
        modalities = {
            number: [name for name in config.data.modalities if name in reader.manifest.features]
            for number, reader in readers.items()
        }
        return [
            forecast(
                readers,
                order,
                modalities,
                world=plan.world,
                accumulation=plan.accumulation,
                cache_bytes=parse_bytes(config.data.cache_bytes),
                sorted_by_length=config.data.by_length,
                most_steps=min(plan.steps_per_epoch, _MOST_STEPS),
                names=names if plan.pool is not None else None,
                excluded=left_out,
            )
            for plan in plans
        ]
    finally:
        for reader in readers.values():
            reader.close()


def forecast(
    readers: Mapping[int, ShardReader],
    order: RunOrder[Any],
    modalities: Mapping[int, Sequence[str]],
    *,
    world: int,
    accumulation: int,
    cache_bytes: int,
    sorted_by_length: bool,
    most_steps: int = _MOST_STEPS,
    names: Mapping[str, int] | None = None,
    excluded: Mapping[int, Exclusions] | None = None,
) -> Forecast:
    """Simulate the reading of every rank over the first steps of an epoch.

    Args:
        readers: By number of the corpus: reads its indexes; no shard is read.
        order: Order of the run.
        modalities: By number of the corpus: modalities that training uses.
        world: Number of ranks.
        accumulation: Micro-steps of a step.
        cache_bytes: Size of each rank's segment cache.
        sorted_by_length: Whether slots are sorted by length.
        most_steps: Number of steps to simulate, within an epoch.
        names: Of a pool: the number of each corpus by its name.
        excluded: By number of the corpus: samples that are left out, which are not read.

    Raises:
        DataError, CorruptDataError, StorageError: An index cannot be read.
    """
    digest = hashlib.sha256()
    caches = [_SimulatedCache(readers, cache_bytes) for _ in range(world)]
    needed = np.zeros(world, np.int64)
    padded, padded_sorted, real = (np.zeros(1 + max(readers), np.int64) for _ in range(3))
    read = np.zeros_like(real)
    cursor = order.start
    for step in range(most_steps):
        batch = order.batch(cursor)
        cursor = order.advance(cursor)
        numbers, corpus = batch.numbers, batch.corpus
        if step < _HASHED_STEPS:
            digest.update(numbers.astype("<i8").tobytes())
            if len(readers) > 1:
                digest.update(corpus.astype("<i8").tobytes())
        filled = numbers != EMPTY
        lengths, sizes, segments, shards = np.zeros((4, len(numbers)), np.int64)
        for number, reader in readers.items():
            own = np.flatnonzero(filled & (corpus == number))
            if len(own):
                lengths[own] = reader.lengths(numbers[own], modalities[number])
                shards[own], segments[own], sizes[own] = reader.extents(numbers[own])
        slots_in_order = np.arange(len(numbers))
        ordered = by_length(slots_in_order, np.where(filled, lengths, np.iinfo(np.int64).max))
        # After the sort, so that all other samples keep their slots.
        for number, listed in (excluded or {}).items():
            filled &= (corpus != number) | ~listed.mask(numbers)
        lengths, sizes = np.where(filled, lengths, 0), np.where(filled, sizes, 0)
        _add_by_corpus(padded, corpus, _padded_steps(lengths, slots_in_order, world, accumulation))
        _add_by_corpus(padded_sorted, corpus, _padded_steps(lengths, ordered, world, accumulation))
        _add_by_corpus(real, corpus, lengths)
        _add_by_corpus(read, corpus, sizes)
        used = ordered if sorted_by_length else slots_in_order
        for rank, cache in enumerate(caches):
            own_slots = np.concatenate(
                [used[slots.start : slots.stop] for slots in _slots(len(used), rank, world, accumulation)]
            )
            own_slots = own_slots[filled[own_slots]]
            needed[rank] += sizes[own_slots].sum()
            cache.use(corpus[own_slots], shards[own_slots], segments[own_slots])
    fetched = sum(cache.fetched for cache in caches)
    used_steps = padded_sorted if sorted_by_length else padded
    return Forecast(
        steps=most_steps,
        order_hash=digest.hexdigest()[:12],
        rank_bytes=(int(needed.min()) // most_steps, int(needed.max()) // most_steps),
        amplification=fetched / max(1, int(needed.sum())),
        resident_bytes=max(cache.most for cache in caches),
        padding=_padding(int(real.sum()), int(padded.sum())),
        padding_by_length=_padding(int(real.sum()), int(padded_sorted.sum())),
        corpora={
            name: CorpusReading(int(read[number]) // most_steps, _padding(int(real[number]), int(used_steps[number])))
            for name, number in (names or {}).items()
        },
    )


def _slots(count: int, rank: int, world: int, accumulation: int) -> Iterator[range]:
    for micro in range(accumulation):
        yield rank_slots(micro_slots(count, accumulation, micro), rank, world)


def _padded_steps(lengths: Int64Array, order: Int64Array, world: int, accumulation: int) -> Int64Array:
    """Compute the time steps of each slot of a global batch once micro-batches are padded to their longest sample."""
    padded = np.zeros_like(lengths)
    for rank in range(world):
        for slots in _slots(len(order), rank, world, accumulation):
            own = order[slots.start : slots.stop]
            padded[own] = np.where(lengths[own] > 0, lengths[own].max(initial=0), 0)
    return padded


def _add_by_corpus(totals: Int64Array, corpus: Int64Array, values: Int64Array) -> None:
    """Add a value of each slot to the total of its corpus; empty slots have value 0."""
    np.add.at(totals, corpus, values)


def _padding(real: int, padded: int) -> float | None:
    return 1 - real / padded if real else None


class _SimulatedCache:
    """A rank's segment cache without the bytes."""

    def __init__(self, readers: Mapping[int, ShardReader], limit: int) -> None:
        self.fetched = 0
        self.most = 0
        self._shards = [
            (reader, shard) for _, reader in sorted(readers.items()) for shard in range(len(reader.manifest.shards))
        ]
        counts = [len(readers[number].manifest.shards) for number in sorted(readers)]
        self._firsts = np.zeros(max(readers) + 1, np.int64)
        self._firsts[sorted(readers)] = np.cumsum(counts) - counts
        self._segments = SegmentCache(limit, limit, self._load)

    def use(self, corpus: Int64Array, shards: Int64Array, segments: Int64Array) -> None:
        """Pin and unpin the segments of one step."""
        through_all = (self._firsts[corpus] + shards).tolist()
        pinned = self._segments.pin(dict.fromkeys(zip(through_all, segments.tolist(), strict=True)))
        self.most = max(self.most, self._segments.resident)
        self._segments.unpin(pinned)

    def _load(self, segment: Segment) -> tuple[Future[Content], int]:
        reader, shard = self._shards[segment[0]]
        size = reader.segment_bytes((shard, segment[1]))
        self.fetched += size
        future: Future[Content] = Future()
        future.set_result(b"")
        return future, size
