"""Signs of life: what an attempt is doing, written to storage every few seconds by a thread of rank 0.

`ivr-dist status` reads them, and so does the ledger of time: an attempt that was killed cannot say when.
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
"""Longest wait for storage that does not answer, at the end of an attempt."""
_NUMBERS = ("step", "total_steps", "epoch", "loss", "samples_per_s", "parent")


class Heartbeat:
    """Writes one attempt's signs of life.

    Args:
        run_url: The run's directory.
        attempt: The attempt's number.
        fixed: What does not change, such as `began`, `parent` and `forked`.
        sample: What does, asked for at each sign; called in the thread.
    """

    def __init__(
        self, run_url: str, attempt: int, fixed: Mapping[str, Any], sample: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._url = RunPaths(run_url).heartbeat(attempt)
        self._fixed = dict(fixed)
        self._sample = sample
        self._closed = threading.Event()
        self._period_s = _LOCAL_PERIOD_S if storage.is_local(run_url) else _REMOTE_PERIOD_S
        self._thread = threading.Thread(target=self._run, name="ivr-pulse", daemon=True)
        self._thread.start()

    def close(self, ended: str) -> None:
        """The last sign, if it can be written.

        Args:
            ended: How the attempt ended; empty when it was cut off by an error.
        """
        self._closed.set()
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            with suppress(IvrError):
                self._write(ended)

    def _run(self) -> None:
        while True:
            # A sign that cannot be written is not worth a run; the next one may be.
            with suppress(IvrError):
                self._write("")
            if self._closed.wait(self._period_s):
                return

    def _write(self, how: str) -> None:
        sign = {**self._fixed, **self._sample(), "seen": time.time(), "ended": bool(how), "how": how}
        storage.write_text(self._url, json.dumps(sign))


def read_heartbeats(run_url: str) -> dict[int, dict[str, Any]]:
    """The last sign of each attempt, by number, as far as it can be read."""
    paths = RunPaths(run_url)
    signs = {number: _read(paths.heartbeat(number)) for (number,) in HEARTBEAT_NAME.found(paths.heartbeats)}
    return {number: sign for number, sign in sorted(signs.items()) if sign is not None}


def _read(url: str) -> dict[str, Any] | None:
    """A sign that can be relied on; None for what is damaged, gone or of another form."""
    try:
        sign = storage.read_json(url)
    except (CorruptDataError, storage.NotFoundError):
        return None
    if not isinstance(sign, dict) or not isinstance(sign.get("how"), str) or not isinstance(sign.get("ended"), bool):
        return None
    seconds, forked = sign.get("seconds"), sign.get("forked")
    numbers = [sign.get("began"), sign.get("seen")]
    numbers += [sign[name] for name in _NUMBERS if sign.get(name) is not None]
    for parts in (seconds, forked):
        if not isinstance(parts, dict):
            return None
        numbers += parts.values()
    return sign if all(isinstance(number, (int, float)) for number in numbers) else None


def attempt_times(pulses: Mapping[int, Mapping[str, Any]], first: int = 1) -> dict[int, AttemptTimes]:
    """What is known of the time of the attempts from number `first` on."""
    return {number: AttemptTimes.from_pulse(pulse) for number, pulse in pulses.items() if number >= first}
