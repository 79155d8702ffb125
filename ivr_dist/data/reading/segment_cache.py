"""In-memory segment cache: segments of pending requests are pinned by reference count, the rest is an LRU cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future

from ivr_dist.data.reading.fetcher import Content
from ivr_dist.data.reading.lazy_future import LazyFuture

Segment = tuple[int, int]
"""Number of a shard, through all splits of a reader, and of a segment in it."""
Load = Callable[[Segment], tuple[Future[Content], int]]
"""Begins to read a segment; returns its future bytes and their number."""


# decision 018
class SegmentCache:
    """Keeps segments by the number of requests that have pinned them; safe to use from several threads.

    1. `pin` increments the reference count of a segment; one that is not in memory begins to load.
    2. A pinned segment stays in memory, even beyond the limit. The caller pins no more while `has_room` is false.
    3. `unpin` decrements the count. At 0 the segment becomes the most recently used one of the LRU cache, or is
       dropped if it could not be read.
    4. While pinned and cached segments together exceed the limit, the least recently used one is evicted.

    Args:
        limit: Target for the bytes in memory.
        in_flight: Maximum number of bytes being loaded at a time.
        load: Begins to read a segment; returns its future bytes and their number.
    """

    def __init__(self, limit: int, in_flight: int, load: Load) -> None:
        self._load = load
        self._limit = limit
        self._max_in_flight = in_flight
        self._lock = threading.Lock()
        # Separate, so that a thread that has loaded a segment does not wait for one that pins a hundred more.
        self._in_flight_lock = threading.Lock()
        self._pinned: dict[Segment, CachedSegment] = {}
        self._idle: OrderedDict[Segment, CachedSegment] = OrderedDict()
        self._pinned_bytes = 0
        self._idle_bytes = 0
        self._in_flight = 0

    @property
    def resident(self) -> int:
        """Bytes in memory or being loaded."""
        return self._pinned_bytes + self._idle_bytes

    @property
    def has_room(self) -> bool:
        """Whether more segments may be pinned."""
        return self._in_flight < self._max_in_flight and self._pinned_bytes < self._limit

    def pin(self, segments: Iterable[Segment]) -> dict[Segment, CachedSegment]:
        """Increment the reference count of each segment, and begin to load those that are not in memory."""
        pinned = {}
        with self._lock:
            for segment in segments:
                cached = self._pinned.get(segment) or self._pin_first(segment)
                cached.references += 1
                pinned[segment] = cached
        return pinned

    def unpin(self, segments: Mapping[Segment, CachedSegment]) -> None:
        """Decrement the reference count of each segment."""
        with self._lock:
            for segment, cached in segments.items():
                cached.references -= 1
                if not cached.references:
                    del self._pinned[segment]
                    self._pinned_bytes -= cached.size
                    if cached.is_loaded:
                        self._idle[segment] = cached
                        self._idle_bytes += cached.size
            self._evict()

    def _pin_first(self, segment: Segment) -> CachedSegment:
        """Move a segment from the LRU cache to the pinned ones, or begin to load it."""
        cached = self._idle.pop(segment, None)
        if cached is None:
            cached = self._begin(segment)
        else:
            self._idle_bytes -= cached.size
        self._pinned[segment] = cached
        self._pinned_bytes += cached.size
        self._evict()
        return cached

    def _begin(self, segment: Segment) -> CachedSegment:
        future, size = self._load(segment)
        with self._in_flight_lock:
            self._in_flight += size
        future.add_done_callback(lambda _: self._on_loaded(size))
        return CachedSegment(future, size)

    def _on_loaded(self, size: int) -> None:
        with self._in_flight_lock:
            self._in_flight -= size

    def _evict(self) -> None:
        while self._idle and self._pinned_bytes + self._idle_bytes > self._limit:
            self._idle_bytes -= self._idle.popitem(last=False)[1].size


class CachedSegment:
    """A segment in memory or being loaded."""

    __slots__ = ("_data", "future", "references", "size")

    def __init__(self, future: Future[Content], size: int) -> None:
        self.future = future
        self.size = size
        """Size in bytes."""
        self.references = 0
        """Number of requests that have pinned it."""
        self._data: memoryview | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether its bytes are in memory; a segment that could not be read is not kept, so the next pin retries it."""
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None

    @property
    def is_ready(self) -> bool:
        """Whether `data` need not wait for another thread."""
        return self.future.done() or isinstance(self.future, LazyFuture)

    def data(self) -> memoryview:
        """Return its bytes; waits for them, and raises the error if they could not be read."""
        if self._data is None:
            self._data = memoryview(self.future.result())
        return self._data
