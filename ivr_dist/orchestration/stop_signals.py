"""Signal handling: the first SIGINT, SIGTERM or SIGHUP ends training after a checkpoint, a second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Each ends training after a checkpoint; the exit code is then 128 plus its number."""


class ReceivedSignal:
    """The first signal that was received, if any."""

    code = 0
    """128 plus its number; 0 without a signal."""
    ending = False
    """Whether a second one has arrived."""


class StopNow(BaseException):
    """Raised in the main thread by a second signal: end at once."""


@contextmanager
def stop_signals(stop: threading.Event) -> Iterator[ReceivedSignal]:
    """Handle stop signals inside the context; the handlers before it are restored afterwards.

    Outside the main thread, where Python allows no handlers, nothing is installed.

    Args:
        stop: Set by the first signal.

    Raises:
        StopNow: A second signal arrived.
    """
    received = ReceivedSignal()

    def handle(number: int, _frame: FrameType | None) -> None:
        if received.ending:
            return
        if received.code:
            received.ending = True
            raise StopNow
        received.code = 128 + number
        stop.set()
        # Written to the descriptor: the handler may interrupt a write to the stream. After SIGHUP the terminal is gone.
        with suppress(OSError):
            os.write(2, b"stopping after a checkpoint; press Ctrl-C (or signal) again to stop without one\n")

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # nohup ignores SIGHUP on purpose.
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    previous = {number: signal.signal(number, handle) for number in _STOPPING if number not in ignored}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
