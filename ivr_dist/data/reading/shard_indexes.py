"""Shard indexes of one or several splits: prefetched, and kept in an LRU cache."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from ivr_dist import storage
from ivr_dist.data.reading.fetcher import Fetcher
from ivr_dist.data.reading.lazy_future import LazyFuture
from ivr_dist.shards.index import ShardIndex
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.member_layout import Layout


@dataclass(frozen=True)
class SplitFiles:
    """A packed split: where it is, and what its files hold."""

    url: str
    """Directory or fsspec URL."""
    manifest: Manifest
    layout: Layout


class OpenShard:
    """One shard's index, with columns for fast access to single samples.

    Columns that are read for every sample are lists, because access to their items is faster than to those of arrays;
    except for the offsets of members, which would take four times the memory as lists.

    Args:
        name: Name of the tar.
        split: The split that it belongs to.
        index: The index.
    """

    __slots__ = (
        "begins",
        "ends",
        "firsts",
        "is_as_packed",
        "keys",
        "lengths",
        "members",
        "name",
        "names",
        "segments",
        "sizes",
        "split",
        "starts",
        "url",
        "xxh3",
    )

    def __init__(self, name: str, split: SplitFiles, index: ShardIndex) -> None:
        self.name = name
        self.split = split
        self.url = storage.join(split.url, name)
        self.keys = index.keys
        self.names = index.names
        self.lengths = index.lengths
        self.sizes = index.size
        firsts, lasts = index.segment[:-1], index.segment[1:] - 1
        self.firsts: list[int] = index.segment.tolist()
        """Row of the first sample of each segment, and the number of samples."""
        self.segments: list[int] = np.repeat(np.arange(len(firsts)), lasts + 1 - firsts).tolist()
        """Segment of each sample."""
        starts = index.offset[firsts]
        self.starts: list[int] = starts.tolist()
        """Offset of each segment in the tar."""
        self.begins = index.offset - np.repeat(starts, lasts + 1 - firsts)
        """Offset of each sample in its segment."""
        self.ends: list[int] = (index.offset[lasts] + index.size[lasts]).tolist()
        self.xxh3: list[int] = index.xxh3.tolist()
        self.members = split.layout.member_offsets(index)
        """Offsets of the members of each sample, if `pack` wrote the shard; see `Layout.member_offsets`."""
        self.is_as_packed = True
        """Whether all samples so far were at these offsets."""

    def bounds(self, row: int) -> tuple[int, int]:
        """Start and end of a sample in its segment."""
        start = int(self.begins[row])
        return start, start + int(self.sizes[row])

    def describe_segment(self, segment: int) -> str:
        """Name the samples of a segment, for errors."""
        return f"samples {self.keys[self.firsts[segment]]} to {self.keys[self.firsts[segment + 1] - 1]}"


class ShardIndexes:
    """Opens shard indexes by number of the shard; safe to use from several threads.

    Args:
        splits: The splits; shards are numbered from 0 on through all of them, each in the order of its manifest.
        fetcher: Reads the files.
        threads: Run the requests of remote indexes.
        max_open_samples: Samples of open indexes above which the least recently used ones are closed.
    """

    def __init__(
        self, splits: Sequence[SplitFiles], fetcher: Fetcher, threads: ThreadPoolExecutor, max_open_samples: int
    ) -> None:
        self._shards = [(split, number) for split in splits for number in range(len(split.manifest.shards))]
        self._fetcher = fetcher
        self._threads = threads
        self._max_open_samples = max_open_samples
        self._lock = threading.Lock()
        self._open: dict[int, OpenShard] = {}
        self._pending: dict[int, Future[OpenShard]] = {}
        self._samples = 0
        self._most_at_once = 0

    def prefetch(self, shards: Iterable[int]) -> None:
        """Begin to open shards that will be needed soon."""
        with self._lock:
            for shard in shards:
                if shard not in self._open:
                    self._begin(shard)

    def are_open(self, shards: Iterable[int]) -> bool:
        """Whether all these shards are open."""
        return all(map(self._open.__contains__, shards))

    def get(self, shards: Sequence[int]) -> list[OpenShard]:
        """Open shards by number; waits for those that are not open yet.

        Raises:
            DataError: An index file is missing.
            CorruptDataError: An index does not match the manifest, or is damaged.
            StorageError: Storage failed.
        """
        opened = list(self.iterate(shards))
        if self._samples > self._max_open_samples:
            self._evict(shards)
        return opened

    def iterate(self, shards: Iterable[int]) -> Iterator[OpenShard]:
        """Open shards like `get`, one after the other, without closing others."""
        get_open = self._open.get
        return (get_open(number) or self._wait_for(number) for number in shards)

    def _begin(self, number: int) -> Future[OpenShard]:
        """Begin to open a shard, unless that is pending already."""
        future = self._pending.get(number)
        if future is None:
            if storage.is_local(self._shards[number][0].url):
                future = LazyFuture(partial(self._read, number))
            else:
                future = self._threads.submit(self._read, number)
            self._pending[number] = future
        return future

    def _wait_for(self, number: int) -> OpenShard:
        with self._lock:
            if number in self._open:
                return self._open[number]
            future = self._begin(number)
        with suppress(CancelledError):
            future.exception()
        with self._lock:
            # Only the first of the threads that waited does this; after a failure, the next call tries again.
            if self._pending.get(number) is future:
                del self._pending[number]
                if not future.cancelled() and future.exception() is None:
                    self._open[number] = future.result()
                    self._samples += len(self._open[number].keys)
        return future.result()

    def _evict(self, shards: Sequence[int]) -> None:
        """Close the least recently used shards; twice as many as one call uses stay open, of any size."""
        with self._lock:
            used = dict.fromkeys(shards)
            for number in used:
                if number in self._open:
                    self._open[number] = self._open.pop(number)
            self._most_at_once = max(self._most_at_once, len(used))
            for number in list(self._open)[: -2 * self._most_at_once]:
                if self._samples <= self._max_open_samples:
                    break
                self._samples -= len(self._open.pop(number).keys)

    def _read(self, shard: int) -> OpenShard:
        split, number = self._shards[shard]
        entry = split.manifest.shards[number]
        url = storage.join(split.url, entry.index.name)
        data = self._fetcher.read_file(url, entry.index.bytes, sha256=entry.index.sha256, what="index")
        return OpenShard(entry.name, split, ShardIndex.from_bytes(data, where=storage.display(url)))
