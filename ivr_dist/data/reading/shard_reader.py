"""Random access to samples by index, with prefetching.

Samples are read in segments, runs of about 1 MiB of a shard: one range request each, verified by a `Fetcher`. A stream
of requests (`read_ahead`) is read in these steps:

1. Locate the samples of the next requests in their shards, and prefetch the shards' indexes.
2. Pin the segments of further requests in the segment cache, while its limits in bytes allow it; segments that are not
   in memory begin to load.
3. Wait for the segments of the first request, and decode its samples: as a batch or, if that fails, one by one.
4. Unpin its segments, and return the result. A sample that could not be read is an error in the result, never left out.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import numpy as np

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.data.reading.fetcher import Content, Fetcher
from ivr_dist.data.reading.resources import ReadingResources
from ivr_dist.data.reading.segment_cache import CachedSegment, Segment
from ivr_dist.data.reading.shard_indexes import OpenShard, ShardIndexes
from ivr_dist.data.sample_order import Int64Array, ShardTable
from ivr_dist.errors import IvrError
from ivr_dist.shards.batch_decode import decode_batch
from ivr_dist.shards.decode import decode_sample
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.member_layout import Layout
from ivr_dist.shards.sample_columns import Samples

_LOCATED_AHEAD = 64
"""Number of requests, of one step each, whose indexes are prefetched."""
_MAX_PENDING = 256
"""Maximum number of pending requests, of one step each, which is reached where all segments are in memory."""
_ADDED_AT_ONCE = 4
"""Number of requests added for each one that is done, so that the first does not wait until the last is planned."""


@dataclass(frozen=True)
class StoredSample:
    """A sample that was read and verified, but not decoded."""

    key: str
    shard: str
    content: memoryview
    """Its tar members."""


@dataclass(frozen=True)
class ReadFailure:
    """A sample that could not be read."""

    name: str
    """Name of the sample; see `ShardReader.names`."""
    error: IvrError


@dataclass(frozen=True)
class ReadResult:
    """Result of a request."""

    samples: Samples
    """Samples that could be read, in the order of the request."""
    failures: Mapping[int, ReadFailure] = field(default_factory=dict)
    """The other ones, by their row in the request, ascending."""

    def all_or_raise(self) -> Samples:
        """Return all samples of the request.

        Raises:
            DataError, CorruptDataError, StorageError: The error of the first sample that could not be read.
        """
        for each in self.failures.values():
            raise each.error
        return self.samples


class ShardReader:
    """Reads samples of one packed split; safe to use from several threads, and after a fork.

    Args:
        split_url: Directory or fsspec URL of the split.
        manifest: The split's manifest.
        cache_bytes: Bytes of segments kept in memory; the least recently used are evicted first. All segments of one
            request are in memory together, even beyond the limit.
        fetcher: Reads files; closed with the reader. None: one with the default policy.
        shared: Resources that it shares with other readers, in place of `cache_bytes` and `fetcher`; not closed with
            the reader.
    """

    def __init__(
        self,
        split_url: str,
        manifest: Manifest,
        cache_bytes: int = 0,
        fetcher: Fetcher | None = None,
        *,
        shared: ReadingResources | None = None,
    ) -> None:
        self.split_url = split_url
        self.manifest = manifest
        self._resources = shared or ReadingResources(cache_bytes, fetcher)
        self._is_owner = shared is None
        self.fetcher = self._resources.fetcher
        self._table = ShardTable(manifest.shard_samples)
        self._layout = Layout.of(manifest.features)
        self._begin()

    @property
    def resident(self) -> int:
        """Bytes of segments in memory or being loaded."""
        return self._segments.resident

    def meters(self) -> dict[str, float]:
        """Return statistics so far, of all that share its resources: counts, milliseconds and bytes, by name."""
        counts = asdict(self.fetcher.meters.counts())
        times = {f"request_{name.removesuffix('_s')}_ms": 1000 * counts.pop(name) for name in ("p50_s", "p99_s")}
        return {**counts, **times, "resident_bytes": self.resident}

    def read(self, numbers: Int64Array) -> Samples:
        """Read the samples with these numbers (manifest order, 0..samples-1), in the order given.

        Raises:
            DataError: A shard or index file is missing.
            CorruptDataError: Bytes do not match their checksum, index or layout; names shard and sample.
            StorageError: Storage failed.
        """
        (result,) = self.read_ahead([numbers])
        return result.all_or_raise()

    def read_ahead(self, requests: Iterable[Int64Array], steps: int = 1) -> Iterator[ReadResult]:
        """Read the samples of each request in turn, while those of the next ones are prefetched.

        Args:
            requests: Numbers of samples, as for `read`. The iterator is consumed ahead of the results.
            steps: About how many steps a request is for: the more, the fewer requests are located and pending ahead.

        Returns:
            A result for each request.

        Raises:
            DataError, CorruptDataError, StorageError: An index cannot be read.
        """
        self._after_fork()
        located = _LocatedRequests(requests, self._table, self._shards, -(-_LOCATED_AHEAD // steps))
        most = -(-_MAX_PENDING // steps)
        window: deque[_Request] = deque()
        try:
            while True:
                more = _ADDED_AT_ONCE
                while not window or (more and len(window) < most and self._segments.has_room):
                    rows = located.next()
                    if rows is None:
                        break
                    window.append(self._pin(*rows))
                    more -= 1
                if not window:
                    return
                result = self._decode(window[0])
                self._segments.unpin(window.popleft().pinned)
                yield result
        finally:
            for request in window:
                self._segments.unpin(request.pinned)

    def stored(self, numbers: Int64Array) -> list[StoredSample]:
        """Read samples like `read`, without decoding them."""
        self._after_fork()
        shards, rows = self._table.locate(numbers)
        request = self._pin(shards, rows)
        try:
            samples = []
            for shard, row, segment in request:
                start, end = shard.bounds(row)
                samples.append(StoredSample(shard.keys[row], shard.name, segment.data()[start:end]))
            return samples
        finally:
            self._segments.unpin(request.pinned)

    def lengths(self, numbers: Int64Array, modalities: Collection[str]) -> Int64Array:
        """Look up the time steps of the longest of these modalities of each sample, at least 0.

        Only the indexes are read.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read`.
        """
        self._after_fork()
        shards, rows = self._table.locate(numbers)
        opened = self._shards.get(shards.tolist())
        columns = [MODALITIES.index(name) for name in modalities]
        lengths = [shard.lengths[row, columns] for shard, row in zip(opened, rows.tolist(), strict=True)]
        longest: Int64Array = np.array(lengths, np.int64).reshape(len(lengths), len(columns)).max(axis=1, initial=0)
        return longest

    def names(self, numbers: Int64Array) -> list[str]:
        """Look up the name of each sample in its index: its id, or the KEY that `pack` derived from it.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read`.
        """
        self._after_fork()
        shards, rows = self._table.locate(numbers)
        opened = self._shards.get(shards.tolist())
        return [shard.names[row] for shard, row in zip(opened, rows.tolist(), strict=True)]

    def extents(self, numbers: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Look up shard, segment in the shard, and bytes of each sample; only the indexes are read.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read`.
        """
        self._after_fork()
        shards, rows = self._table.locate(numbers)
        opened = list(zip(self._shards.get(shards.tolist()), rows.tolist(), strict=True))
        segments = [shard.segments[row] for shard, row in opened]
        sizes = [shard.sizes[row] for shard, row in opened]
        return shards, np.array(segments, np.int64), np.array(sizes, np.int64)

    def segment_bytes(self, segment: Segment) -> int:
        """Look up the bytes of a segment."""
        number, part = segment
        (shard,) = self._shards.iterate([number])
        return shard.ends[part] - shard.starts[part]

    def close(self) -> None:
        """Stop the threads without waiting for pending requests; may be called again."""
        if self._is_owner:
            self._resources.close()

    def _begin(self) -> None:
        resources = self._resources
        self._pid = resources.pid
        self._shards = ShardIndexes(
            self.split_url,
            self.manifest,
            self._layout,
            self.fetcher,
            resources.index_threads,
            resources.max_open_samples,
        )
        self._segments = resources.view(self._load)

    def _after_fork(self) -> None:
        """Begin again in a forked child, which has no threads to complete pending requests."""
        if self._pid != os.getpid():
            self._begin()

    def _pin(self, shards: Int64Array, rows: Int64Array) -> _Request:
        shard_numbers, rows_in_shard = shards.tolist(), rows.tolist()
        early = self._pin_early(shard_numbers, rows_in_shard)
        try:
            opened = self._shards.get(shard_numbers)
            parts = [shard.segments[row] for shard, row in zip(opened, rows_in_shard, strict=True)]
            segments = list(zip(shard_numbers, parts, strict=True))
            pinned = self._segments.pin(dict.fromkeys(segments))
        finally:
            self._segments.unpin(early)
        return _Request(opened, rows_in_shard, list(map(pinned.__getitem__, segments)), pinned)

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

    def _decode(self, request: _Request) -> ReadResult:
        """Decode the samples of a request as a batch or, if that fails, one by one."""
        try:
            samples = self._decode_batch(request.shards, request.rows, request.segments)
        except IvrError:
            samples = None
        if samples is not None:
            return ReadResult(samples)
        return self._result_of([self._decode_one(*sample) for sample in request])

    def _result_of(self, decoded: Sequence[Samples | ReadFailure]) -> ReadResult:
        """Combine the results of single samples."""
        samples = Samples.joined([each for each in decoded if isinstance(each, Samples)], self._layout)
        return ReadResult(samples, {row: each for row, each in enumerate(decoded) if isinstance(each, ReadFailure)})

    def _decode_batch(
        self, shards: Sequence[OpenShard], rows: Sequence[int], segments: Sequence[CachedSegment]
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
            self._layout,
        )

    def _decode_one(self, shard: OpenShard, row: int, segment: CachedSegment) -> Samples | ReadFailure:
        key = shard.keys[row]
        try:
            samples = self._decode_batch([shard], [row], [segment])
            if samples is None:
                # The other samples of this shard probably do not have the layout of `pack` either.
                shard.is_as_packed = False
                start, end = shard.bounds(row)
                sample = decode_sample(segment.data()[start:end], shard.name, key, self.manifest.features)
                samples = Samples.of([sample], self._layout)
            return samples
        except IvrError as error:
            return ReadFailure(shard.names[row], error)


@dataclass(frozen=True)
class _Request:
    """A pending request: shard, row in the shard, and segment of each sample."""

    shards: list[OpenShard]
    rows: list[int]
    segments: list[CachedSegment]
    pinned: dict[Segment, CachedSegment]
    """The segments, each once."""

    def __iter__(self) -> Iterator[tuple[OpenShard, int, CachedSegment]]:
        return zip(self.shards, self.rows, self.segments, strict=True)


class _LocatedRequests:
    """Requests located in their shards; the shards' indexes are prefetched some requests ahead."""

    def __init__(self, requests: Iterable[Int64Array], table: ShardTable, shards: ShardIndexes, ahead: int) -> None:
        self._requests = iter(requests)
        self._ahead = ahead
        self._table = table
        self._shards = shards
        self._located: deque[tuple[Int64Array, Int64Array]] = deque()

    def next(self) -> tuple[Int64Array, Int64Array] | None:
        """Return shards and rows of the next request's samples; None after the last."""
        while len(self._located) <= self._ahead:
            numbers = next(self._requests, None)
            if numbers is None:
                break
            located = self._table.locate(numbers)
            self._shards.prefetch(dict.fromkeys(located[0].tolist()))
            self._located.append(located)
        return self._located.popleft() if self._located else None
