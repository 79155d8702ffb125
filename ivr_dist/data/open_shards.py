"""The indexes of a split's shards, read ahead and kept while they are of use."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ivr_dist import storage
from ivr_dist.data.fetch import Fetcher
from ivr_dist.data.index import ShardIndex
from ivr_dist.data.manifest import FeatureSpec, Manifest
from ivr_dist.data.places import shard_places

_THREADS = 32
_KEPT_SAMPLES = 200_000


class OpenShard:
    """One shard's index, laid out for looking up single samples: lists, whose entries are had faster than an array's.

    Args:
        name: Of the tar.
        url: Of the tar.
        index: What was read.
        features: Of the split.
    """

    __slots__ = (
        "begins",
        "ends",
        "keys",
        "lengths",
        "name",
        "places",
        "segments",
        "sizes",
        "starts",
        "url",
        "used",
        "xxh3",
    )

    def __init__(self, name: str, url: str, index: ShardIndex, features: Mapping[str, FeatureSpec]) -> None:
        self.name = name
        self.url = url
        self.keys = index.keys
        self.lengths = index.lengths
        self.sizes: list[int] = index.size.tolist()
        firsts, lasts = index.segment[:-1], index.segment[1:] - 1
        self.segments: list[int] = np.repeat(np.arange(len(firsts)), lasts + 1 - firsts).tolist()
        """By sample: its segment."""
        starts = index.offset[firsts]
        self.starts: list[int] = starts.tolist()
        """By segment: where its bytes begin."""
        self.begins: list[int] = (index.offset - np.repeat(starts, lasts + 1 - firsts)).tolist()
        """By sample: where it begins in its segment."""
        self.ends: list[int] = (index.offset[lasts] + index.size[lasts]).tolist()
        self.xxh3: list[int] = index.xxh3.tolist()
        self.places = shard_places(index, features)

    def bounds(self, place: int) -> tuple[int, int]:
        """Where a sample begins and ends in its segment."""
        start = self.begins[place]
        return start, start + self.sizes[place]

    def samples_of(self, segment: int) -> str:
        """Names the samples of a segment, for errors."""
        first = self.segments.index(segment)
        last = len(self.segments) - 1 - self.segments[::-1].index(segment)
        return f"samples {self.keys[first]} to {self.keys[last]}"


class OpenShards:
    """Opens shards by number; safe to use from several threads.

    Args:
        split_url: Directory or fsspec URL of the split.
        manifest: The split's manifest.
        fetcher: Reads the files.
    """

    def __init__(self, split_url: str, manifest: Manifest, fetcher: Fetcher) -> None:
        self._split_url = split_url
        self._manifest = manifest
        self._fetcher = fetcher
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="ivr-index")
        self._lock = threading.Lock()
        self._open: dict[int, OpenShard] = {}
        self._under_way: dict[int, Future[OpenShard]] = {}
        self._samples = 0

    def ask(self, shards: Iterable[int]) -> None:
        """Begin to open shards that will be wanted soon."""
        missing = [shard for shard in shards if shard not in self._open and shard not in self._under_way]
        with self._lock:
            for shard in missing:
                if shard not in self._open and shard not in self._under_way:
                    self._under_way[shard] = self._pool.submit(self._read, shard)

    def get(self, shards: Sequence[int]) -> list[OpenShard]:
        """Shards by number; waits for those that are not open yet.

        Raises:
            DataError: An index file is missing.
            CorruptDataError: It does not match the manifest, or is not sound.
            StorageError: Storage failed.
        """
        is_open = self._open.get
        found = [is_open(number) or self._wait_for(number) for number in shards]
        if self._samples > _KEPT_SAMPLES:
            self._forget(2 * len(found))
        return found

    def close(self) -> None:
        """Stop without waiting for requests under way; may be called again."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _wait_for(self, number: int) -> OpenShard:
        self.ask([number])
        future = self._under_way.get(number)
        # Another thread may have waited for it too, and put it in its place.
        if future is None:
            return self._open[number]
        try:
            shard = future.result()
        finally:
            with self._lock:
                self._under_way.pop(number, None)
        with self._lock:
            if number not in self._open:
                self._open[number] = shard
                self._samples += len(shard.keys)
        return shard

    def _forget(self, wanted: int) -> None:
        """Close the shards that were opened first; in any order of lanes they are those that are done with."""
        with self._lock:
            for number in list(self._open)[:-wanted]:
                if self._samples <= _KEPT_SAMPLES // 2:
                    break
                self._samples -= len(self._open.pop(number).keys)

    def _read(self, shard: int) -> OpenShard:
        entry = self._manifest.shards[shard]
        url = storage.join(self._split_url, entry.index.name)
        data = self._fetcher.read_file(url, entry.index.bytes, sha256=entry.index.sha256, what="index")
        index = ShardIndex.from_bytes(data, where=storage.display(url))
        return OpenShard(entry.name, storage.join(self._split_url, entry.name), index, self._manifest.features)
