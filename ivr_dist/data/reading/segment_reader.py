"""Random access to the samples of one or several splits by index, with prefetching.

Samples are read in segments, runs of about 1 MiB of a shard: one range request each, verified by a `Fetcher`. A stream
of requests is read in these steps:

1. Locate the samples of the next requests in their shards, and prefetch the shards' indexes.
2. Pin the segments of further requests in the segment cache, while its limits in bytes allow it; segments that are not
   in memory begin to load.
3. Wait for the segments of the first request, and decode its samples: as a batch or, if that fails, one by one.
4. Unpin its segments, and return the result. A sample that could not be read is an error in the result, never left out.

Samples are numbered through all splits. `ShardReader` reads one split, `PoolReader` several: one stream of requests
for all corpora costs what it costs for one, where a stream for each would cost as much again with every corpus.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice, takewhile

import numpy as np

from ivr_dist.data.reading.fetcher import Content, Fetcher
from ivr_dist.data.reading.segment_cache import CachedSegment, Segment, SegmentCache
from ivr_dist.data.reading.shard_indexes import OpenShard, ShardIndexes, SplitFiles
from ivr_dist.data.sample_order import Int64Array, ShardTable
from ivr_dist.errors import IvrError
from ivr_dist.shards.batch_decode import decode_batch
from ivr_dist.shards.decode import decode_sample
from ivr_dist.shards.member_layout import Layout
from ivr_dist.shards.sample_columns import Samples

_IN_FLIGHT_BYTES = 64 << 20
"""Maximum number of bytes of segments that are loading at a time."""
_INDEX_THREADS = 32
_MAX_OPEN_SAMPLES = 200_000
"""Samples of open indexes, over all splits, above which the least recently used indexes are closed."""
_LOCATED_AHEAD = 64
"""Number of requests, of one step each, whose indexes are prefetched."""
_MAX_PENDING = 256
"""Maximum number of pending requests, of one step each, which is reached where all segments are in memory."""
_ADDED_AT_ONCE = 4
"""Number of requests added for each one that is done, so that the first does not wait until the last is planned."""


@dataclass(frozen=True)
class ReadFailure:
    """A sample that could not be read."""

    name: str
    """Name of the sample; see `SegmentReader.names`."""
    error: IvrError


@dataclass(frozen=True)
class PinnedRequest:
    """A pending request: shard, row in the shard, and segment of each sample."""

    shards: Sequence[OpenShard]
    rows: Sequence[int]
    segments: Sequence[CachedSegment]
    pinned: dict[Segment, CachedSegment]
    """The segments that it has pinned, each once."""

    def __len__(self) -> int:
        return len(self.shards)

    def __iter__(self) -> Iterator[tuple[OpenShard, int, CachedSegment]]:
        return zip(self.shards, self.rows, self.segments, strict=True)

    @property
    def is_ready(self) -> bool:
        """Whether its samples can be decoded without waiting for another thread."""
        return all(segment.is_ready for segment in self.pinned.values())

    @classmethod
    def joined(cls, requests: Sequence[PinnedRequest]) -> PinnedRequest:
        """Return the samples of several requests as those of one."""
        return cls(
            [shard for request in requests for shard in request.shards],
            [row for request in requests for row in request.rows],
            [segment for request in requests for segment in request.segments],
            {},
        )

    def part(self, places: Sequence[int]) -> PinnedRequest:
        """Return the samples at some places of the request."""
        columns = (self.shards, self.rows, self.segments)
        shards, rows, segments = ([column[place] for place in places] for column in columns)
        return PinnedRequest(shards, rows, segments, {})  # type: ignore[arg-type]


class SegmentReader:
    """Reads samples of packed splits; safe to use from several threads, and after a fork.

    Args:
        splits: The splits.
        cache_bytes: Bytes of segments kept in memory, of all splits together; the least recently used are evicted
            first. All segments of one request are in memory together, even beyond the limit.
        fetcher: Reads files; closed with the reader. None: one with the default policy.
    """

    def __init__(self, splits: Sequence[SplitFiles], cache_bytes: int, fetcher: Fetcher | None) -> None:
        self.fetcher = fetcher or Fetcher()
        self._splits = splits
        self._cache_bytes = cache_bytes
        self._table = ShardTable(np.concatenate([split.manifest.shard_samples for split in splits]))
        self._begin()

    @property
    def resident(self) -> int:
        """Bytes of segments in memory or being loaded."""
        return self._segments.resident

    def meters(self) -> dict[str, float]:
        """Return statistics so far: counts, milliseconds and bytes, by name."""
        counts = asdict(self.fetcher.meters.counts())
        times = {f"request_{name.removesuffix('_s')}_ms": 1000 * counts.pop(name) for name in ("p50_s", "p99_s")}
        return {**counts, **times, "resident_bytes": self.resident}

    def close(self) -> None:
        """Stop the threads without waiting for pending requests; may be called again."""
        self._index_threads.shutdown(wait=False, cancel_futures=True)
        self.fetcher.close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._index_threads = ThreadPoolExecutor(_INDEX_THREADS, thread_name_prefix="ivr-index")
        self._shards = ShardIndexes(self._splits, self.fetcher, self._index_threads, _MAX_OPEN_SAMPLES)
        self._segments = SegmentCache(self._cache_bytes, _IN_FLIGHT_BYTES, self._load)

    def _after_fork(self) -> None:
        """Begin again in a forked child, which has no threads to complete pending requests."""
        if self._pid != os.getpid():
            self._begin()

    def _rows(self, numbers: Int64Array) -> list[tuple[OpenShard, int]]:
        """Shard and row of samples, whose indexes are opened if need be."""
        self._after_fork()
        shards, rows = self._table.locate(numbers)
        return list(zip(self._shards.get(shards.tolist()), rows.tolist(), strict=True))

    def _pinned_ahead(self, requests: Iterable[Int64Array], most: int = 1) -> Iterator[list[PinnedRequest]]:
        """Pin the segments of each request in turn, while those of the next ones are prefetched.

        Requests are unpinned when the next ones are taken. Segments of the first one may still be loading.

        Args:
            requests: Numbers of samples.
            most: Maximum number of requests that are yielded together, where their segments are in memory; fewer at
                first, so that the first result does not wait for others.
        """
        self._after_fork()
        located = _LocatedRequests(requests, self._table, self._shards)
        window: deque[PinnedRequest] = deque()
        done, limit = 1, 1
        try:
            while True:
                more = done * _ADDED_AT_ONCE
                while not window or (more and len(window) < _MAX_PENDING and self._segments.has_room):
                    rows = located.next()
                    if rows is None:
                        break
                    window.append(self._pin(*rows))
                    more -= 1
                if not window:
                    return
                others = takewhile(lambda request: request.is_ready, islice(window, 1, limit))
                together = [window[0], *others]
                yield together
                done, limit = len(together), min(most, 2 * limit)
                for _ in together:
                    self._segments.unpin(window.popleft().pinned)
        finally:
            for request in window:
                self._segments.unpin(request.pinned)

    def _pin(self, shards: Int64Array, rows: Int64Array) -> PinnedRequest:
        shard_numbers, rows_in_shard = shards.tolist(), rows.tolist()
        early = self._pin_early(shard_numbers, rows_in_shard)
        try:
            opened = self._shards.get(shard_numbers)
            parts = [shard.segments[row] for shard, row in zip(opened, rows_in_shard, strict=True)]
            segments = list(zip(shard_numbers, parts, strict=True))
            pinned = self._segments.pin(dict.fromkeys(segments))
        finally:
            self._segments.unpin(early)
        return PinnedRequest(opened, rows_in_shard, list(map(pinned.__getitem__, segments)), pinned)

    def _pin_early(self, shards: Sequence[int], rows: Sequence[int]) -> dict[Segment, CachedSegment]:
        """Where indexes are still loading, pin the segments of each shard as soon as its own index is loaded."""
        pinned: dict[Segment, CachedSegment] = {}
        if self._shards.are_open(shards):
            return pinned
        with suppress(IvrError):  # `ShardIndexes.get` raises it again
            for number, row, shard in zip(shards, rows, self._shards.iterate(shards), strict=True):
                segment = number, shard.segments[row]
                if segment not in pinned:
                    pinned |= self._segments.pin([segment])
        return pinned

    def _load(self, segment: Segment) -> tuple[Future[Content], int]:
        """Begin to read a segment of a shard that is open."""
        number, part = segment
        (shard,) = self._shards.iterate([number])
        start, end = shard.starts[part], shard.ends[part]
        what = shard.describe_segment(part)
        return self.fetcher.submit(shard.url, start, end, xxh3=shard.xxh3[part], what=what), end - start

    def _decode(self, request: PinnedRequest, layout: Layout) -> tuple[Samples, dict[int, ReadFailure]]:
        """Decode the samples of a request, all of one layout: as a batch or, if that fails, one by one.

        Returns:
            The samples that could be read, in the order of the request, and the others by place in it, ascending.
        """
        try:
            samples = _decode_batch(request.shards, request.rows, request.segments, layout)
        except IvrError:
            samples = None
        if samples is not None:
            return samples, {}
        return joined([_decode_one(*sample, layout) for sample in request], layout)


def joined(decoded: Sequence[Samples | ReadFailure], layout: Layout) -> tuple[Samples, dict[int, ReadFailure]]:
    """Separate the samples that were decoded one by one, as one, from those that could not be read, by place."""
    samples = Samples.joined([each for each in decoded if isinstance(each, Samples)], layout)
    return samples, {place: each for place, each in enumerate(decoded) if isinstance(each, ReadFailure)}


def _decode_batch(
    shards: Sequence[OpenShard], rows: Sequence[int], segments: Sequence[CachedSegment], layout: Layout
) -> Samples | None:
    """Decode samples as a batch; None if that fails, see `decode_batch`.

    Raises:
        DataError, CorruptDataError, StorageError: A segment cannot be read.
    """
    if not shards or any(not shard.is_as_packed for shard in shards):
        return None
    return decode_batch(
        [shard.keys[row] for shard, row in zip(shards, rows, strict=True)],
        [shard.name for shard in shards],
        [segment.data() for segment in segments],
        [shard.members[row] for shard, row in zip(shards, rows, strict=True)],
        layout,
    )


def _decode_one(shard: OpenShard, row: int, segment: CachedSegment, layout: Layout) -> Samples | ReadFailure:
    key = shard.keys[row]
    try:
        samples = _decode_batch([shard], [row], [segment], layout)
        if samples is None:
            # The other samples of this shard probably do not have the layout of `pack` either.
            shard.is_as_packed = False
            start, end = shard.bounds(row)
            sample = decode_sample(segment.data()[start:end], shard.name, key, shard.split.manifest.features)
            samples = Samples.of([sample], layout)
        return samples
    except IvrError as error:
        return ReadFailure(shard.names[row], error)


class _LocatedRequests:
    """Requests located in their shards; the shards' indexes are prefetched some requests ahead."""

    def __init__(self, requests: Iterable[Int64Array], table: ShardTable, shards: ShardIndexes) -> None:
        self._requests = iter(requests)
        self._table = table
        self._shards = shards
        self._located: deque[tuple[Int64Array, Int64Array]] = deque()

    def next(self) -> tuple[Int64Array, Int64Array] | None:
        """Return shards and rows of the next request's samples; None after the last."""
        while len(self._located) <= _LOCATED_AHEAD:
            numbers = next(self._requests, None)
            if numbers is None:
                break
            located = self._table.locate(numbers)
            self._shards.prefetch(dict.fromkeys(located[0].tolist()))
            self._located.append(located)
        return self._located.popleft() if self._located else None
