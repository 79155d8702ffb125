"""Signals that end a run: the first one after a checkpoint, the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Each ends the run after a checkpoint, with exit code 128 and its number."""


class ReceivedSignal:
    """The exit code that a signal asked for; 0 if none came."""

    code = 0
    ending = False
    """Whether a second one has ended everything at once."""


class StopNow(BaseException):
    """A second signal: end at once."""


@contextmanager
def stop_signals(stop: threading.Event) -> Iterator[ReceivedSignal]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a wish to stop, and the second one into an immediate end."""
    received = ReceivedSignal()

    def handle(number: int, _frame: FrameType | None) -> None:
        if received.ending:
            return
        if received.code:
            received.ending = True
            raise StopNow
        received.code = 128 + number
        stop.set()
        # Not through the stream, which this may interrupt; after SIGHUP the terminal is gone.
        with suppress(OSError):
            os.write(2, b"stopping after a checkpoint; signal again to stop without one\n")

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # nohup has it ignored, and that is meant.
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    previous = {number: signal.signal(number, handle) for number in _STOPPING if number not in ignored}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
