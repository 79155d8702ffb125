"""Samples by number, read ahead of those who ask for them.

Samples are fetched in segments, runs of about 1 MiB of a shard: one ranged request each, compared with its checksum by
a `Fetcher`. Whoever knows what is wanted next (`ahead`) has it under way while earlier samples are
decoded; how far ahead is counted in bytes. Nothing is ever left out: what cannot be read is an error in its place.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from ivr_dist.data.decode import RawSample, decode_at, decode_sample
from ivr_dist.data.fetch import Content, Fetcher
from ivr_dist.data.manifest import MODALITIES, Manifest
from ivr_dist.data.open_shards import OpenShard, OpenShards
from ivr_dist.data.order import Int64Array, ShardTable
from ivr_dist.data.segments import Held, Segment, Segments
from ivr_dist.errors import IvrError

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
class Unreadable:
    """What stands in place of a sample that is not to be had."""

    key: str
    error: IvrError


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
        self._begin()

    @property
    def resident(self) -> int:
        """Bytes of segments in memory or under way."""
        return self._segments.resident

    def read(self, numbers: Int64Array) -> list[RawSample]:
        """The samples with these numbers (manifest order, 0..samples-1), in the order asked for.

        Raises:
            DataError: A shard or index file is missing.
            CorruptDataError: Bytes do not match their checksum, index or layout; names shard and sample.
            StorageError: Storage failed.
        """
        (found,) = self.ahead([numbers])
        return raise_first(found)

    def ahead(self, requests: Iterable[Int64Array]) -> Iterator[list[RawSample | Unreadable]]:
        """The samples of each request in turn, while those of the next ones are under way.

        Args:
            requests: Numbers of samples, as for `read`. Some requests are taken before they are answered.

        Returns:
            For each request as many as it has numbers, in its order: a sample, or why it is not there.

        Raises:
            DataError, CorruptDataError, StorageError: An index cannot be read.
        """
        self._after_fork()
        located = _Scouts(requests, self._table, self._shards)
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
                answer = [self._decoded(*sample) for sample in window[0].samples]
                self._segments.release(window.popleft().held)
                yield answer
        finally:
            for request in window:
                self._segments.release(request.held)

    def stored(self, numbers: Int64Array) -> list[StoredSample]:
        """Like `read`, the samples as they stand in the shards."""
        self._after_fork()
        shards, places = self._table.locate(numbers)
        request = self._hold(shards, places)
        try:
            found = []
            for shard, place, segment in request.samples:
                start, end = shard.bounds(place)
                found.append(StoredSample(shard.keys[place], shard.name, memoryview(segment.data())[start:end]))
            return found
        finally:
            self._segments.release(request.held)

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
        (shard,) = self._shards.get([number])
        return shard.ends[part] - shard.starts[part]

    def close(self) -> None:
        """Stop the threads without waiting for requests under way; may be called again."""
        self._shards.close()
        self.fetcher.close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._shards = OpenShards(self.split_url, self.manifest, self.fetcher)
        self._segments = Segments(self._cache_bytes, IN_FLIGHT_BYTES, self._load)

    def _after_fork(self) -> None:
        """What was under way stays so in the parent alone: in the child nobody would ever bring it."""
        if self._pid != os.getpid():
            self._begin()

    def _hold(self, shards: Int64Array, places: Int64Array) -> _Request:
        numbers, in_shard = shards.tolist(), places.tolist()
        opened = self._shards.get(numbers)
        where = [
            (number, shard.segments[place]) for number, shard, place in zip(numbers, opened, in_shard, strict=True)
        ]
        held = self._segments.hold(dict.fromkeys(where))
        return _Request(list(zip(opened, in_shard, map(held.__getitem__, where), strict=True)), held)

    def _load(self, segment: Segment) -> tuple[Future[Content], int]:
        """Begin to read a segment of a shard that is open."""
        number, part = segment
        (shard,) = self._shards.get([number])
        start, end = shard.starts[part], shard.ends[part]
        who = shard.samples_of(part)
        return self.fetcher.submit(shard.url, start, end, xxh3=shard.xxh3[part], who=who), end - start

    def _decoded(self, shard: OpenShard, place: int, segment: Held) -> RawSample | Unreadable:
        try:
            data, key = segment.data(), shard.keys[place]
            found = decode_at(data, shard.begins[place], shard.places, place, shard.name, key)
            if found is None:
                start, end = shard.bounds(place)
                found = decode_sample(data[start:end], shard.name, key, self.manifest.features)
            return found
        except IvrError as error:
            return Unreadable(shard.keys[place], error)


def raise_first(samples: Iterable[RawSample | Unreadable]) -> list[RawSample]:
    """The samples, if all are there; else the first error is raised."""
    found = []
    for sample in samples:
        if isinstance(sample, Unreadable):
            raise sample.error
        found.append(sample)
    return found


@dataclass(frozen=True)
class _Request:
    """What was asked for together."""

    samples: list[tuple[OpenShard, int, Held]]
    """Shard, place in it, and segment."""
    held: dict[Segment, Held]


class _Scouts:
    """Requests located in their shards, whose indexes are read some requests ahead."""

    def __init__(self, requests: Iterable[Int64Array], table: ShardTable, shards: OpenShards) -> None:
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
            self._shards.ask(dict.fromkeys(located[0].tolist()))
            self._located.append(located)
        return self._located.popleft() if self._located else None
