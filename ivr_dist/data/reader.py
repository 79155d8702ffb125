"""Samples by number: whole checked segments of shards, kept in memory up to a limit.

A segment is a run of samples of about 1 MiB; it is read with one ranged request, compared with its checksum, and
decoded sample by sample when asked for. Nothing is ever left out: a segment that cannot be read or checked is an error.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import xxhash

from ivr_dist import storage
from ivr_dist.data.decode import RawSample, decode_sample
from ivr_dist.data.index import ShardIndex
from ivr_dist.data.manifest import MODALITIES, Manifest
from ivr_dist.data.order import Int64Array, ShardTable
from ivr_dist.errors import CorruptDataError, DataError

Segment = tuple[int, int]
"""Number of a shard and of a segment in it."""

_THREADS = 8
_REMEDY = "copy the file again from where the split was packed, or pack the split again"


@dataclass(frozen=True)
class StoredSample:
    """A sample that was read and checked, but not decoded."""

    key: str
    shard: str
    content: memoryview
    """Its tar members."""


class ShardReader:
    """Reads samples of one packed split; safe to use from several threads.

    Args:
        split_url: Directory or fsspec URL of the split.
        manifest: The split's manifest.
        cache_bytes: Segments kept in memory between calls, in bytes of tar; the least recently used go first. The
            segments that one call needs are in memory together, whatever the limit.
    """

    def __init__(self, split_url: str, manifest: Manifest, cache_bytes: int) -> None:
        self.split_url = split_url
        self.manifest = manifest
        self._table = ShardTable(np.array([shard.samples for shard in manifest.shards], np.int64))
        self._indexes: dict[int, ShardIndex] = {}
        self._cache = _SegmentCache(cache_bytes)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="ivr-reader")

    def read(self, numbers: Int64Array) -> list[RawSample]:
        """The samples with these numbers (manifest order, 0..samples-1), in the order asked for.

        Raises:
            DataError: A shard or index file is missing.
            CorruptDataError: Bytes do not match their checksum, index or layout; names shard and sample.
            StorageError: Storage failed.
        """
        features = self.manifest.features
        return [decode_sample(stored.content, stored.shard, stored.key, features) for stored in self.stored(numbers)]

    def stored(self, numbers: Int64Array) -> list[StoredSample]:
        """Like `read`, the samples as they stand in the shards."""
        shards, places = self._table.locate(numbers)
        self._load_indexes(np.unique(shards).tolist())
        wanted = [self._segment_of(int(shard), int(place)) for shard, place in zip(shards, places, strict=True)]
        segments = self._segments(list(dict.fromkeys(wanted)))
        return [
            self._stored(int(shard), int(place), segment, segments[shard, segment])
            for (shard, segment), place in zip(wanted, places, strict=True)
        ]

    def longest(self, numbers: Int64Array, modalities: Collection[str]) -> int:
        """Steps of the longest of these modalities over the samples with these numbers, at least 1.

        Only the indexes are read.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read`.
        """
        shards, places = self._table.locate(numbers)
        self._load_indexes(np.unique(shards).tolist())
        columns = [MODALITIES.index(name) for name in modalities]
        lengths = [
            self._indexes[int(shard)].lengths[place, columns] for shard, place in zip(shards, places, strict=True)
        ]
        return int(np.max(lengths, initial=1))

    def close(self) -> None:
        """Stop the threads without waiting for requests under way; may be called again."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _load_indexes(self, shards: list[int]) -> None:
        missing = [shard for shard in shards if shard not in self._indexes]
        self._indexes.update(zip(missing, self._pool.map(self._load_index, missing), strict=True))

    def _load_index(self, shard: int) -> ShardIndex:
        entry = self.manifest.shards[shard]
        url = storage.join(self.split_url, entry.index.name)
        data = self._present(lambda: storage.read_bytes(url), "index", url)
        if hashlib.sha256(data).hexdigest() != entry.index.sha256:
            raise CorruptDataError(
                "the index does not match the manifest's checksum", where=storage.display(url), remedy=_REMEDY
            )
        return ShardIndex.from_bytes(data, where=storage.display(url))

    def _segment_of(self, shard: int, place: int) -> Segment:
        return shard, int(np.searchsorted(self._indexes[shard].segment, place, side="right")) - 1

    def _segments(self, wanted: list[Segment]) -> dict[Segment, bytes]:
        found = {segment: self._cache.get(segment) for segment in wanted}
        missing = [segment for segment, data in found.items() if data is None]
        fetched = dict(zip(missing, self._pool.map(self._fetch, missing), strict=True))
        for segment, data in fetched.items():
            self._cache.put(segment, data)
        return {segment: fetched[segment] if data is None else data for segment, data in found.items()}

    def _fetch(self, segment: Segment) -> bytes:
        """Read one segment and compare it with its checksum."""
        shard, number = segment
        index, entry = self._indexes[shard], self.manifest.shards[shard]
        first, last = int(index.segment[number]), int(index.segment[number + 1]) - 1
        start, end = int(index.offset[first]), int(index.offset[last] + index.size[last])
        url = storage.join(self.split_url, entry.name)
        who = f"samples {index.keys[first]} to {index.keys[last]}"
        try:
            data = self._present(lambda: storage.read_range(url, start, end), "shard", url)
        except CorruptDataError as error:
            raise CorruptDataError(f"{who}: {error.what}", where=error.where, remedy=_REMEDY) from error
        if xxhash.xxh3_64_intdigest(data) != int(index.xxh3[number]):
            raise CorruptDataError(
                f"{who}: bytes {start} to {end} do not match their checksum",
                where=storage.display(url),
                remedy=_REMEDY,
            )
        return data

    def _present(self, read: Callable[[], bytes], what: str, url: str) -> bytes:
        try:
            return read()
        except storage.NotFoundError as error:
            raise DataError(f"{what} file is missing", where=storage.display(url), remedy=_REMEDY) from error

    def _stored(self, shard: int, place: int, segment: int, data: bytes) -> StoredSample:
        index, entry = self._indexes[shard], self.manifest.shards[shard]
        start = int(index.offset[place] - index.offset[index.segment[segment]])
        content = memoryview(data)[start : start + int(index.size[place])]
        return StoredSample(index.keys[place], entry.name, content)


class _SegmentCache:
    """Segments by recency, limited in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._segments: OrderedDict[Segment, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, segment: Segment) -> bytes | None:
        with self._lock:
            if segment in self._segments:
                self._segments.move_to_end(segment)
            return self._segments.get(segment)

    def put(self, segment: Segment, data: bytes) -> None:
        with self._lock:
            self._bytes += len(data) - len(self._segments.pop(segment, b""))
            self._segments[segment] = data
            while self._bytes > self._limit:
                self._bytes -= len(self._segments.popitem(last=False)[1])
