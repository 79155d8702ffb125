"""Samples by number, read ahead of those who ask for them.

Samples are fetched in segments, runs of about 1 MiB of a shard: one ranged request each, compared with its checksum by
a `Fetcher`. Whoever knows what is wanted next (`read_ahead`) has it under way while earlier samples are
decoded; how far ahead is counted in bytes. Nothing is ever left out: what cannot be read is an error in its place.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.data.reading.fetcher import Content, Fetcher
from ivr_dist.data.reading.segment_cache import CachedSegment, Segment, SegmentCache
from ivr_dist.data.reading.shard_indexes import OpenShard, ShardIndexes
from ivr_dist.data.sample_order import Int64Array, ShardTable
from ivr_dist.errors import IvrError
from ivr_dist.shards.batch_decode import decode_batch
from ivr_dist.shards.decode import decode_sample
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.member_layout import Layout
from ivr_dist.shards.sample_columns import Samples

IN_FLIGHT_BYTES = 64 << 20
"""Bytes of segments that may be under way at a time."""

_SCOUTED = 64
"""Requests whose shards are opened before their segments are asked for."""
_MOST_AHEAD = 256
"""Requests under way, where all they need is in memory."""
_MORE_AT_ONCE = 4
"""Requests that are added for one that is done: the first must not wait until the last is planned."""


@dataclass(frozen=True)
class StoredSample:
    """A sample that was read and checked, but not decoded."""

    key: str
    shard: str
    content: memoryview
    """Its tar members."""


@dataclass(frozen=True)
class ReadFailure:
    """A sample that is not to be had."""

    name: str
    """See `ShardReader.names`."""
    error: IvrError


@dataclass(frozen=True)
class ReadResult:
    """What came of a request."""

    samples: Samples
    """Those that could be read, in the order asked for."""
    failures: Mapping[int, ReadFailure] = field(default_factory=dict)
    """The others, by their places in the request, ascending."""

    def all_or_raise(self) -> Samples:
        """All samples that were asked for.

        Raises:
            DataError, CorruptDataError, StorageError: Why the first one of those that are not there is not.
        """
        for each in self.failures.values():
            raise each.error
        return self.samples


class ShardReader:
    """Reads samples of one packed split; safe to use from several threads, and after a fork.

    Args:
        split_url: Directory or fsspec URL of the split.
        manifest: The split's manifest.
        cache_bytes: Segments kept in memory, in bytes of tar; the least recently used go first. The segments that one
            request needs are in memory together, whatever the limit.
        fetcher: Reads files; closed with the reader. None: one with the usual policy.
    """

    def __init__(self, split_url: str, manifest: Manifest, cache_bytes: int, fetcher: Fetcher | None = None) -> None:
        self.split_url = split_url
        self.manifest = manifest
        self.fetcher = fetcher or Fetcher()
        self._cache_bytes = cache_bytes
        self._table = ShardTable(manifest.shard_samples)
        self._layout = Layout.of(manifest.features)
        self._begin()

    @property
    def resident(self) -> int:
        """Bytes of segments in memory or under way."""
        return self._segments.resident

    def read(self, numbers: Int64Array) -> Samples:
        """The samples with these numbers (manifest order, 0..samples-1), in the order asked for.

        Raises:
            DataError: A shard or index file is missing.
            CorruptDataError: Bytes do not match their checksum, index or layout; names shard and sample.
            StorageError: Storage failed.
        """
        (answer,) = self.read_ahead([numbers])
        return answer.all_or_raise()

    def read_ahead(self, requests: Iterable[Int64Array]) -> Iterator[ReadResult]:
        """The samples of each request in turn, while those of the next ones are under way.

        Args:
            requests: Numbers of samples, as for `read`. Some requests are taken before they are answered.

        Returns:
            An answer to each request.

        Raises:
            DataError, CorruptDataError, StorageError: An index cannot be read.
        """
        self._after_fork()
        located = _LocatedRequests(requests, self._table, self._shards)
        window: deque[_Request] = deque()
        try:
            while True:
                more = _MORE_AT_ONCE
                while not window or (more and len(window) < _MOST_AHEAD and self._segments.room):
                    found = located.next()
                    if found is None:
                        break
                    window.append(self._hold(*found))
                    more -= 1
                if not window:
                    return
                answer = self._answer(window[0])
                self._segments.unpin(window.popleft().held)
                yield answer
        finally:
            for request in window:
                self._segments.unpin(request.held)

    def stored(self, numbers: Int64Array) -> list[StoredSample]:
        """Like `read`, the samples as they stand in the shards."""
        self._after_fork()
        shards, places = self._table.locate(numbers)
        request = self._hold(shards, places)
        try:
            found = []
            for shard, place, segment in request:
                start, end = shard.bounds(place)
                found.append(StoredSample(shard.keys[place], shard.name, segment.data()[start:end]))
            return found
        finally:
            self._segments.unpin(request.held)

    def lengths(self, numbers: Int64Array, modalities: Collection[str]) -> Int64Array:
        """Steps of the longest of these modalities of each sample, at least 0.

        Only the indexes are read.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read`.
        """
        self._after_fork()
        shards, places = self._table.locate(numbers)
        opened = self._shards.get(shards.tolist())
        columns = [MODALITIES.index(name) for name in modalities]
        found = [shard.lengths[place, columns] for shard, place in zip(opened, places.tolist(), strict=True)]
        longest: Int64Array = np.array(found, np.int64).reshape(len(found), len(columns)).max(axis=1, initial=0)
        return longest

    def names(self, numbers: Int64Array) -> list[str]:
        """How each sample is called as far as its index tells: by its id, or by the KEY that `pack` made of it.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read`.
        """
        self._after_fork()
        shards, places = self._table.locate(numbers)
        opened = self._shards.get(shards.tolist())
        return [shard.names[place] for shard, place in zip(opened, places.tolist(), strict=True)]

    def extents(self, numbers: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Shard, segment in it, and bytes of each sample; only the indexes are read.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read`.
        """
        self._after_fork()
        shards, places = self._table.locate(numbers)
        opened = list(zip(self._shards.get(shards.tolist()), places.tolist(), strict=True))
        segments = [shard.segments[place] for shard, place in opened]
        sizes = [shard.sizes[place] for shard, place in opened]
        return shards, np.array(segments, np.int64), np.array(sizes, np.int64)

    def segment_bytes(self, segment: Segment) -> int:
        """Bytes of a segment."""
        number, part = segment
        (shard,) = self._shards.iterate([number])
        return shard.ends[part] - shard.starts[part]

    def close(self) -> None:
        """Stop the threads without waiting for requests under way; may be called again."""
        self._shards.close()
        self.fetcher.close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._shards = ShardIndexes(self.split_url, self.manifest, self._layout, self.fetcher)
        self._segments = SegmentCache(self._cache_bytes, IN_FLIGHT_BYTES, self._load)

    def _after_fork(self) -> None:
        """What was under way stays so in the parent alone: in the child nobody would ever bring it."""
        if self._pid != os.getpid():
            self._begin()

    def _hold(self, shards: Int64Array, places: Int64Array) -> _Request:
        numbers, in_shard = shards.tolist(), places.tolist()
        begun = self._begin_by_shard(numbers, in_shard)
        try:
            opened = self._shards.get(numbers)
            parts = [shard.segments[place] for shard, place in zip(opened, in_shard, strict=True)]
            where = list(zip(numbers, parts, strict=True))
            held = self._segments.pin(dict.fromkeys(where))
        finally:
            self._segments.unpin(begun)
        return _Request(opened, in_shard, list(map(held.__getitem__, where)), held)

    def _begin_by_shard(self, shards: Sequence[int], places: Sequence[int]) -> dict[Segment, CachedSegment]:
        """Where indexes are still under way: want the segments of each shard as soon as its own index is there."""
        begun: dict[Segment, CachedSegment] = {}
        if self._shards.has(shards):
            return begun
        with suppress(IvrError):  # which is raised again where all indexes are asked for
            for number, place, shard in zip(shards, places, self._shards.iterate(shards), strict=True):
                segment = number, shard.segments[place]
                if segment not in begun:
                    begun |= self._segments.pin([segment])
        return begun

    def _load(self, segment: Segment) -> tuple[Future[Content], int]:
        """Begin to read a segment of a shard that is open."""
        number, part = segment
        (shard,) = self._shards.iterate([number])
        start, end = shard.starts[part], shard.ends[part]
        who = shard.samples_of(part)
        return self.fetcher.submit(shard.url, start, end, xxh3=shard.xxh3[part], who=who), end - start

    def _answer(self, request: _Request) -> ReadResult:
        """Decode what a request holds: together, or one by one if that cannot be done."""
        try:
            found = self._decode_batch(request.shards, request.places, request.segments)
        except IvrError:
            found = None
        if found is not None:
            return ReadResult(found)
        return self._one_by_one([self._decode_one(*sample) for sample in request])

    def _one_by_one(self, found: Sequence[Samples | ReadFailure]) -> ReadResult:
        """The answer of which these are the single samples."""
        samples = Samples.joined([each for each in found if isinstance(each, Samples)], self._layout)
        return ReadResult(samples, {place: each for place, each in enumerate(found) if isinstance(each, ReadFailure)})

    def _decode_batch(
        self, shards: Sequence[OpenShard], places: Sequence[int], segments: Sequence[CachedSegment]
    ) -> Samples | None:
        """What `decode_batch` makes of samples.

        Raises:
            DataError, CorruptDataError, StorageError: A segment cannot be read.
        """
        if not shards or any(not shard.as_packed for shard in shards):
            return None
        return decode_batch(
            [shard.keys[place] for shard, place in zip(shards, places, strict=True)],
            [shard.name for shard in shards],
            [segment.data() for segment in segments],
            [shard.members[place] for shard, place in zip(shards, places, strict=True)],
            self._layout,
        )

    def _decode_one(self, shard: OpenShard, place: int, segment: CachedSegment) -> Samples | ReadFailure:
        key = shard.keys[place]
        try:
            found = self._decode_batch([shard], [place], [segment])
            if found is None:
                # Its other samples are likely to lie in another order than `pack` has too.
                shard.as_packed = False
                start, end = shard.bounds(place)
                sample = decode_sample(segment.data()[start:end], shard.name, key, self.manifest.features)
                found = Samples.of([sample], self._layout)
            return found
        except IvrError as error:
            return ReadFailure(shard.names[place], error)


@dataclass(frozen=True)
class _Request:
    """What was asked for together: of each sample its shard, its place in it, and its segment."""

    shards: list[OpenShard]
    places: list[int]
    segments: list[CachedSegment]
    held: dict[Segment, CachedSegment]
    """The segments, each once."""

    def __iter__(self) -> Iterator[tuple[OpenShard, int, CachedSegment]]:
        return zip(self.shards, self.places, self.segments, strict=True)


class _LocatedRequests:
    """Requests located in their shards, whose indexes are read some requests ahead."""

    def __init__(self, requests: Iterable[Int64Array], table: ShardTable, shards: ShardIndexes) -> None:
        self._requests = iter(requests)
        self._table = table
        self._shards = shards
        self._located: deque[tuple[Int64Array, Int64Array]] = deque()

    def next(self) -> tuple[Int64Array, Int64Array] | None:
        """Shards and places of the next request's samples; None after the last."""
        while len(self._located) <= _SCOUTED:
            numbers = next(self._requests, None)
            if numbers is None:
                break
            located = self._table.locate(numbers)
            self._shards.prefetch(dict.fromkeys(located[0].tolist()))
            self._located.append(located)
        return self._located.popleft() if self._located else None
