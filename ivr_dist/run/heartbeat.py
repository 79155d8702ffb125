"""Heartbeats: rank 0 writes the attempt's progress to storage every few seconds, in a thread.

`ivr-dist status` reads them, and so does goodput accounting: the last heartbeat marks the end of a killed attempt.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ivr_dist import storage
from ivr_dist.errors import CorruptDataError, IvrError
from ivr_dist.run.goodput import AttemptTimes
from ivr_dist.run.paths import HEARTBEAT_NAME, RunPaths

_LOCAL_PERIOD_S = 1.0
_REMOTE_PERIOD_S = 5.0
_CLOSE_S = 30.0
"""Longest wait for unresponsive storage at the end of an attempt."""
_NUMBERS = ("step", "total_steps", "epoch", "loss", "samples_per_s", "parent")


class Heartbeat:
    """Writes the heartbeat of one attempt.

    Args:
        run_url: The run's directory.
        attempt: The attempt's number.
        fixed: Fields that do not change, such as `began`, `parent` and `forked`.
        sample: Returns the fields that change; called in the thread for each heartbeat.
    """

    def __init__(
        self, run_url: str, attempt: int, fixed: Mapping[str, Any], sample: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._url = RunPaths(run_url).heartbeat(attempt)
        self._fixed = dict(fixed)
        self._sample = sample
        self._closed = threading.Event()
        self._period_s = _LOCAL_PERIOD_S if storage.is_local(run_url) else _REMOTE_PERIOD_S
        self._thread = threading.Thread(target=self._run, name="ivr-heartbeat", daemon=True)
        self._thread.start()

    def close(self, ended: str) -> None:
        """Write the last heartbeat, if storage allows it.

        Args:
            ended: How the attempt ended; empty after an error.
        """
        self._closed.set()
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            with suppress(IvrError):
                self._write(ended)

    def _run(self) -> None:
        while True:
            # A heartbeat that cannot be written must not end the run; the next one may succeed.
            with suppress(IvrError):
                self._write("")
            if self._closed.wait(self._period_s):
                return

    def _write(self, how: str) -> None:
        record = {**self._fixed, **self._sample(), "seen": time.time(), "ended": bool(how), "how": how}
        storage.write_text(self._url, json.dumps(record))


def read_heartbeats(run_url: str) -> dict[int, dict[str, Any]]:
    """Read the last heartbeat of each attempt, by number; unreadable ones are left out."""
    paths = RunPaths(run_url)
    records = {number: _read(paths.heartbeat(number)) for (number,) in HEARTBEAT_NAME.list_numbers(paths.heartbeats)}
    return {number: record for number, record in sorted(records.items()) if record is not None}


def _read(url: str) -> dict[str, Any] | None:
    """Read a heartbeat; None if it is missing, damaged or malformed."""
    try:
        record = storage.read_json(url)
    except (CorruptDataError, storage.NotFoundError):
        return None
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("how"), str)
        or not isinstance(record.get("ended"), bool)
    ):
        return None
    seconds, forked = record.get("seconds"), record.get("forked")
    numbers = [record.get("began"), record.get("seen")]
    numbers += [record[name] for name in _NUMBERS if record.get(name) is not None]
    for parts in (seconds, forked):
        if not isinstance(parts, dict):
            return None
        numbers += parts.values()
    return record if all(isinstance(number, (int, float)) for number in numbers) else None


def attempt_times(heartbeats: Mapping[int, Mapping[str, Any]], first: int = 1) -> dict[int, AttemptTimes]:
    """Return the times of the attempts from number `first` on, from their heartbeats."""
    return {
        number: AttemptTimes.from_heartbeat(heartbeat) for number, heartbeat in heartbeats.items() if number >= first
    }
