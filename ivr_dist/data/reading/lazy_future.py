"""Work that is done by whoever needs its result, in the form of a future."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class LazyFuture(Future[T]):
    """A future whose work is done in the thread that first asks for the result.

    For work that nothing is gained by beginning earlier: no other thread then competes for Python with the one that is
    waiting for it.

    Args:
        work: What gives the result, or raises.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__()
        self._work = work
        # Reentrant: whoever hears that it is done may ask for the result at once.
        self._turn = threading.RLock()

    def result(self, timeout: float | None = None) -> T:
        """See `Future`; the work itself takes as long as it takes."""
        self._do()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `Future`; the work itself takes as long as it takes."""
        self._do()
        return super().exception(timeout)

    def _do(self) -> None:
        with self._turn:
            if self.done():
                return
            try:
                self.set_result(self._work())
            except Exception as error:  # whoever asked gets it, now and later
                self.set_exception(error)
