"""Watchdog: ends a worker that makes no progress, after writing its threads' stacks and its latest collectives.

A hung rank blocks all others in a collective, and Ray only sees a process that is alive. Once it is ended, Ray restarts
the workers from the last checkpoint.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from ivr_dist import storage
from ivr_dist.errors import IvrError
from ivr_dist.run.paths import RunPaths
from ivr_dist.runtime import collectives, device
from ivr_dist.sanitize import plain_lines

logger = logging.getLogger(__name__)

T = TypeVar("T")

EXIT_HUNG = 75

_STEPS = 50
_WRITE_S = 10.0
_NOTIFY_S = 1.0
_END_S = 30.0


class Watchdog:
    """Watches one worker.

    Args:
        run_url: The run's directory; stacks and traces of collectives go below it.
        label: Names the worker in the file's name.
        least_s: Shortest timeout in seconds; 0 turns the watchdog off.
        factor: The timeout is at least this many times the median time between two steps.
        notify: Shows one line to the user.
        end: Ends the process.
    """

    def __init__(
        self,
        run_url: str,
        label: str,
        *,
        least_s: float,
        factor: float,
        notify: Callable[[str], None],
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._folder = RunPaths(run_url).stacks
        self._url = storage.join(self._folder, f"{label}.txt")
        self._label = label
        self._least_s = least_s
        self._factor = factor
        self._notify = notify
        self._end = end
        self._recent: deque[float] = deque(maxlen=_STEPS)
        self._last = time.monotonic()
        self._closed = threading.Event()
        if least_s > 0:
            threading.Thread(target=self._run, name="ivr-watchdog", daemon=True).start()

    def progress(self) -> None:
        """Record progress: a step, an evaluation batch or a checkpoint is done."""
        now = time.monotonic()
        self._recent.append(now - self._last)
        self._last = now

    def restart(self) -> None:
        """Restart the timeout after other work, such as reading a checkpoint, whose duration is no step time."""
        self._last = time.monotonic()

    def watched(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the same items, recording progress for each."""
        for item in items:
            self.progress()
            yield item

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def allowed_s(self) -> float:
        """Return the timeout: seconds without progress before the worker counts as hung."""
        # A copy: the training thread appends meanwhile.
        recent = list(self._recent)
        return max(self._least_s, self._factor * statistics.median(recent) if recent else 0.0)

    def _run(self) -> None:
        while not self._closed.wait(min(1.0, self._least_s / 4)):
            waited = time.monotonic() - self._last
            if waited > self.allowed_s():
                self._end_worker(waited)
                return

    def _end_worker(self, waited: float) -> None:
        # faulthandler's thread does not need the GIL, which reading the collectives holds.
        faulthandler.dump_traceback_later(_END_S, exit=True)
        try:
            text = self._stacks(waited)
            # The log may be on a disk that is full.
            with suppress(OSError):
                logger.critical("%s", plain_lines(text))
            # Storage may be what hangs.
            writer = threading.Thread(target=self._write, args=(text,), daemon=True)
            writer.start()
            writer.join(_WRITE_S)
            url = storage.display(self._url)
            self._notify(f"{self._label} made no progress for {waited:.0f} s and is ended; its stacks: {url}")
            # The console's thread delivers the line.
            time.sleep(_NOTIFY_S)
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._end(EXIT_HUNG)

    def _stacks(self, waited: float) -> str:
        # In memory: no disk is needed to end a process that a disk keeps waiting.
        with open(os.memfd_create("stacks"), "w+", errors="replace") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return f"{self._label} made no progress for {waited:.1f} s\n\n{file.read()}"

    def _write(self, text: str) -> None:
        with suppress(IvrError):
            storage.write_text(self._url, text)
            # The newest of each rank, by names that PyTorch's `torchfrtrace`, which compares them, expects.
            for backend, trace in device.recorded_collectives().items():
                storage.write_bytes(storage.join(self._folder, backend, f"worker-{collectives.rank():05d}"), trace)
