"""Resources of shard readers: fetcher, segment cache and threads for indexes, which several readers may share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from ivr_dist.data.reading.fetcher import Fetcher
from ivr_dist.data.reading.segment_cache import CachedSegment, Load, Segment, SegmentCache

IN_FLIGHT_BYTES = 64 << 20
"""Maximum number of bytes of segments that are loading at a time."""
_INDEX_THREADS = 32
_MAX_OPEN_SAMPLES = 200_000
"""Samples of open indexes, over all readers, above which the least recently used indexes are closed."""


class ReadingResources:
    """Fetcher, segment cache and index threads; safe to use from several threads, and after a fork.

    Args:
        cache_bytes: Bytes of segments kept in memory, of all readers together.
        fetcher: Reads files; closed with the resources. None: one with the default policy.
        readers: Number of readers that share them.
    """

    def __init__(self, cache_bytes: int, fetcher: Fetcher | None = None, readers: int = 1) -> None:
        self.fetcher = fetcher or Fetcher()
        self.max_open_samples = max(1, _MAX_OPEN_SAMPLES // readers)
        """Samples of open indexes for each reader."""
        self._cache_bytes = cache_bytes
        self._begin()

    @property
    def pid(self) -> int:
        """The process that they belong to; a forked child has its own, empty ones."""
        if self._pid != os.getpid():
            self._begin()
        return self._pid

    def view(self, load: Load) -> SegmentView:
        """Return the segment cache as one reader sees it, with segments of its own split.

        Args:
            load: Begins to read a segment; returns its future bytes and their number.
        """
        self._views += 1
        return SegmentView(self._cache, self._views, load)

    def close(self) -> None:
        """Stop the threads without waiting for pending requests; may be called again."""
        self.index_threads.shutdown(wait=False, cancel_futures=True)
        self.fetcher.close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._views = 0
        self._cache = SegmentCache(self._cache_bytes, IN_FLIGHT_BYTES)
        self.index_threads = ThreadPoolExecutor(_INDEX_THREADS, thread_name_prefix="ivr-index")


class SegmentView:
    """A segment cache as one of its readers sees it.

    Args:
        cache: The cache, whose limits hold for all readers together.
        reader: Number of the reader.
        load: Begins to read a segment of its split.
    """

    def __init__(self, cache: SegmentCache, reader: int, load: Load) -> None:
        self._cache = cache
        self._reader = reader
        self._load = load

    @property
    def resident(self) -> int:
        """Bytes in memory or being loaded, of all readers."""
        return self._cache.resident

    @property
    def has_room(self) -> bool:
        """Whether more segments may be pinned."""
        return self._cache.has_room

    def pin(self, segments: Iterable[Segment]) -> dict[Segment, CachedSegment]:
        """Pin segments, see `SegmentCache.pin`."""
        return self._cache.pin(segments, self._load, self._reader)

    def unpin(self, segments: Mapping[Segment, CachedSegment]) -> None:
        """Unpin segments, see `SegmentCache.unpin`."""
        self._cache.unpin(segments, self._reader)
