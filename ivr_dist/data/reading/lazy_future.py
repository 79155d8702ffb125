"""A lazy future: the work runs in the thread that first calls `result()`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class LazyFuture(Future[T]):
    """A future whose work runs in the thread that first calls `result()` or `exception()`.

    For work where an early start has no benefit. It needs no other thread, which would compete for the interpreter lock
    with the thread that waits for the result.

    Args:
        work: Returns the result, or raises.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__()
        self._work = work
        # Reentrant, because a done callback may call `result()`.
        self._lock = threading.RLock()

    def result(self, timeout: float | None = None) -> T:
        """See `Future`; the timeout does not apply to the work itself."""
        self._run()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `Future`; the timeout does not apply to the work itself."""
        self._run()
        return super().exception(timeout)

    def _run(self) -> None:
        with self._lock:
            if self.done():
                return
            try:
                self.set_result(self._work())
            except Exception as error:  # raised by every call of `result()`
                self.set_exception(error)
