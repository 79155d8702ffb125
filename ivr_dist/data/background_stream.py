"""Background stream: runs an iterator on a thread of its own, a bounded number of items ahead of its consumer."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_CLOSE_S = 5.0


# decision 021
class BackgroundStream(Generic[T]):
    """Runs an iterator on a background thread, at most `depth` items ahead of the consumer."""

    def __init__(self, source: Iterator[T], depth: int) -> None:
        self._buffer = _Buffer[T](depth)
        thread = threading.Thread(target=self._buffer.fill, args=(source,), name="ivr-loader", daemon=True)
        # Also runs at interpreter exit: a daemon thread that is killed inside torch or numpy aborts the process.
        self.close = weakref.finalize(self, _stop, self._buffer, thread, os.getpid())
        thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self._buffer.take()


class OneStream:
    """Holds the stream of batches that is open: a new one closes the previous one."""

    def __init__(self) -> None:
        self._stream: BackgroundStream[Any] | None = None

    def open(self, source: Iterator[T], depth: int) -> BackgroundStream[T]:
        """Start a stream; see `BackgroundStream`."""
        self.close()
        self._stream = stream = BackgroundStream(source, depth)
        return stream

    def close(self) -> None:
        """Close the stream, if one is open; may be called again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _stop(buffer: _Buffer[T], thread: threading.Thread, pid: int) -> None:
    if pid != os.getpid():
        # A forked child does not have the thread, and a lock that the thread held would never be released.
        return
    buffer.close()
    # With a timeout: a request may hang until its own deadline, and its result is not needed any more.
    thread.join(_CLOSE_S)


class _Buffer(Generic[T]):
    """Bounded buffer between the two threads.

    It uses queues implemented in C: a hand-over wakes the other thread once, where a condition variable wakes it twice.
    """

    def __init__(self, depth: int) -> None:
        self._items: SimpleQueue[T | _End] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(depth):
            self._room.put(None)
        self._closed = False

    def fill(self, source: Iterator[T]) -> None:
        """Fill the buffer, on the background thread, until the source ends, fails, or the consumer closes."""
        reason: BaseException = StopIteration()
        try:
            for item in source:
                self._room.get()
                if self._closed:
                    return
                self._items.put(item)
        except BaseException as error:  # of any type: the consumer would otherwise wait forever
            reason = error
        self._items.put(_End(reason))

    def take(self) -> T:
        """Return the next item; raises the source's error or StopIteration after the last one."""
        item = self._items.get()
        if self._closed:
            item = _End(RuntimeError("this stream of batches was closed"))
        if isinstance(item, _End):
            # For the next call.
            self._items.put(item)
            raise item.reason
        self._room.put(None)
        return item

    def close(self) -> None:
        """Wake both threads and end the stream."""
        self._closed = True
        with suppress(Empty):
            while True:
                self._items.get_nowait()
        self._items.put(_End(StopIteration()))
        self._room.put(None)


@dataclass(frozen=True)
class _End:
    """Marker after the last item, with the exception to raise."""

    reason: BaseException
