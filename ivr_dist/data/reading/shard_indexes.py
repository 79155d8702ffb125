"""The indexes of a split's shards, read ahead and kept while they are of use."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import numpy as np

from ivr_dist import storage
from ivr_dist.data.reading.fetcher import Fetcher
from ivr_dist.data.reading.lazy_future import LazyFuture
from ivr_dist.shards.index import ShardIndex
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.member_layout import Layout

_THREADS = 32
_KEPT_SAMPLES = 200_000
"""Of open shards together, but for those that are in use."""


class OpenShard:
    """One shard's index, laid out for looking up single samples.

    What is looked up for every sample is a list, whose entries are had faster than an array's; but for where its
    members are: that would take four times the memory.

    Args:
        name: Of the tar.
        url: Of the tar.
        index: What was read.
        layout: Of the split.
    """

    __slots__ = (
        "as_packed",
        "begins",
        "ends",
        "firsts",
        "keys",
        "lengths",
        "members",
        "name",
        "names",
        "segments",
        "sizes",
        "starts",
        "url",
        "xxh3",
    )

    def __init__(self, name: str, url: str, index: ShardIndex, layout: Layout) -> None:
        self.name = name
        self.url = url
        self.keys = index.keys
        self.names = index.names
        self.lengths = index.lengths
        self.sizes = index.size
        firsts, lasts = index.segment[:-1], index.segment[1:] - 1
        self.firsts: list[int] = index.segment.tolist()
        """By segment: its first sample; and the number of samples behind them."""
        self.segments: list[int] = np.repeat(np.arange(len(firsts)), lasts + 1 - firsts).tolist()
        """By sample: its segment."""
        starts = index.offset[firsts]
        self.starts: list[int] = starts.tolist()
        """By segment: where its bytes begin."""
        self.begins = index.offset - np.repeat(starts, lasts + 1 - firsts)
        """By sample: where it begins in its segment."""
        self.ends: list[int] = (index.offset[lasts] + index.size[lasts]).tolist()
        self.xxh3: list[int] = index.xxh3.tolist()
        self.members = layout.member_offsets(index)
        """By sample: where its members are, if `pack` wrote it; see `Layout.places`."""
        self.as_packed = True
        """Whether all samples so far were found there."""

    def bounds(self, place: int) -> tuple[int, int]:
        """Where a sample begins and ends in its segment."""
        start = int(self.begins[place])
        return start, start + int(self.sizes[place])

    def samples_of(self, segment: int) -> str:
        """Names the samples of a segment, for errors."""
        return f"samples {self.keys[self.firsts[segment]]} to {self.keys[self.firsts[segment + 1] - 1]}"


class ShardIndexes:
    """Opens shards by number; safe to use from several threads.

    Args:
        split_url: Directory or fsspec URL of the split.
        manifest: The split's manifest.
        layout: Of the split.
        fetcher: Reads the files.
    """

    def __init__(self, split_url: str, manifest: Manifest, layout: Layout, fetcher: Fetcher) -> None:
        self._split_url = split_url
        self._manifest = manifest
        self._layout = layout
        self._fetcher = fetcher
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="ivr-index")
        self._lock = threading.Lock()
        self._open: dict[int, OpenShard] = {}
        self._under_way: dict[int, Future[OpenShard]] = {}
        self._samples = 0
        self._most_at_once = 0

    def prefetch(self, shards: Iterable[int]) -> None:
        """Begin to open shards that will be wanted soon."""
        with self._lock:
            for shard in shards:
                if shard not in self._open:
                    self._begin(shard)

    def has(self, shards: Iterable[int]) -> bool:
        """Whether all of some shards are open."""
        return all(map(self._open.__contains__, shards))

    def get(self, shards: Sequence[int]) -> list[OpenShard]:
        """Shards by number; waits for those that are not open yet.

        Raises:
            DataError: An index file is missing.
            CorruptDataError: It does not match the manifest, or is not sound.
            StorageError: Storage failed.
        """
        found = list(self.iterate(shards))
        if self._samples > _KEPT_SAMPLES:
            self._forget(shards)
        return found

    def iterate(self, shards: Iterable[int]) -> Iterator[OpenShard]:
        """Like `get`, one after the other as they come; none is closed."""
        is_open = self._open.get
        return (is_open(number) or self._wait_for(number) for number in shards)

    def close(self) -> None:
        """Stop without waiting for requests under way; may be called again."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, number: int) -> Future[OpenShard]:
        """A shard that is not open, under way."""
        future = self._under_way.get(number)
        if future is None:
            if storage.is_local(self._split_url):
                future = LazyFuture(partial(self._read, number))
            else:
                future = self._pool.submit(self._read, number)
            self._under_way[number] = future
        return future

    def _wait_for(self, number: int) -> OpenShard:
        with self._lock:
            if number in self._open:
                return self._open[number]
            future = self._begin(number)
        with suppress(CancelledError):
            future.exception()
        with self._lock:
            # Once, whoever waited for it; what failed is tried again by whoever asks next.
            if self._under_way.get(number) is future:
                del self._under_way[number]
                if not future.cancelled() and future.exception() is None:
                    self._open[number] = future.result()
                    self._samples += len(self._open[number].keys)
        return future.result()

    def _forget(self, shards: Sequence[int]) -> None:
        """Close those that were used longest ago; twice as many as are used at once stay, whatever their size."""
        with self._lock:
            used = dict.fromkeys(shards)
            for number in used:
                if number in self._open:
                    self._open[number] = self._open.pop(number)
            self._most_at_once = max(self._most_at_once, len(used))
            for number in list(self._open)[: -2 * self._most_at_once]:
                if self._samples <= _KEPT_SAMPLES:
                    break
                self._samples -= len(self._open.pop(number).keys)

    def _read(self, shard: int) -> OpenShard:
        entry = self._manifest.shards[shard]
        url = storage.join(self._split_url, entry.index.name)
        data = self._fetcher.read_file(url, entry.index.bytes, sha256=entry.index.sha256, what="index")
        index = ShardIndex.from_bytes(data, where=storage.display(url))
        return OpenShard(entry.name, storage.join(self._split_url, entry.name), index, self._layout)
