"""Segments of shards in memory: those that are wanted soon, and as many others as there is room for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future

from ivr_dist.data.reading.fetcher import Content

Segment = tuple[int, int]
"""Number of a shard and of a segment in it."""


class SegmentCache:
    """Keeps segments by how many requests want them; safe to use from several threads.

    A segment is wanted from `pin` to `unpin`, and stays for as long; what nobody wants any more stays while all
    together are within the limit, and goes in the order in which it was last wanted.

    Args:
        limit: Bytes to keep to. What is wanted is kept in any case; `room` tells when to want no more.
        in_flight: Bytes that may be under way at a time.
        load: Begins to read a segment.
    """

    def __init__(self, limit: int, in_flight: int, load: Callable[[Segment], tuple[Future[Content], int]]) -> None:
        self._limit = limit
        self._most_in_flight = in_flight
        self._load = load
        self._lock = threading.Lock()
        # Of its own: whoever brings a segment must not wait for the one who asks for a hundred more.
        self._in_flight_lock = threading.Lock()
        self._wanted: dict[Segment, CachedSegment] = {}
        self._idle: OrderedDict[Segment, CachedSegment] = OrderedDict()
        self._wanted_bytes = 0
        self._idle_bytes = 0
        self._in_flight = 0

    @property
    def resident(self) -> int:
        """Bytes in memory or under way."""
        return self._wanted_bytes + self._idle_bytes

    @property
    def room(self) -> bool:
        """Whether more may be wanted."""
        return self._in_flight < self._most_in_flight and self._wanted_bytes < self._limit

    def pin(self, segments: Iterable[Segment]) -> dict[Segment, CachedSegment]:
        """Want segments once more each."""
        found = {}
        with self._lock:
            for segment in segments:
                held = self._wanted.get(segment) or self._want(segment)
                held.wanted += 1
                found[segment] = held
        return found

    def unpin(self, segments: Mapping[Segment, CachedSegment]) -> None:
        """Want segments once less each."""
        with self._lock:
            for segment, held in segments.items():
                held.wanted -= 1
                if not held.wanted:
                    del self._wanted[segment]
                    self._wanted_bytes -= held.size
                    if held.usable:
                        self._idle[segment] = held
                        self._idle_bytes += held.size
            self._make_room()

    def _want(self, segment: Segment) -> CachedSegment:
        """Begin to want a segment."""
        held = self._idle.pop(segment, None)
        if held is None:
            held = self._begin(segment)
        else:
            self._idle_bytes -= held.size
        self._wanted[segment] = held
        self._wanted_bytes += held.size
        self._make_room()
        return held

    def _begin(self, segment: Segment) -> CachedSegment:
        future, size = self._load(segment)
        with self._in_flight_lock:
            self._in_flight += size
        future.add_done_callback(lambda _: self._arrived(size))
        return CachedSegment(future, size)

    def _arrived(self, size: int) -> None:
        with self._in_flight_lock:
            self._in_flight -= size

    def _make_room(self) -> None:
        while self._idle and self._wanted_bytes + self._idle_bytes > self._limit:
            self._idle_bytes -= self._idle.popitem(last=False)[1].size


class CachedSegment:
    """A segment in memory or under way."""

    __slots__ = ("_data", "future", "size", "wanted")

    def __init__(self, future: Future[Content], size: int) -> None:
        self.future = future
        self.size = size
        """In bytes."""
        self.wanted = 0
        """By how many requests."""
        self._data: memoryview | None = None

    @property
    def usable(self) -> bool:
        """Whether its bytes are there; what could not be read is read again when it is wanted again."""
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None

    def data(self) -> memoryview:
        """Its bytes; waits for them, or raises why they cannot be had."""
        if self._data is None:
            self._data = memoryview(self.future.result())
        return self._data
