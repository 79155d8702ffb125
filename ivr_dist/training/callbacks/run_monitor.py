"""Run monitor: progress and time of the attempt on rank 0, for heartbeats, `ivr-dist status` and goodput."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ivr_dist.checkpoint.state import CheckpointState
from ivr_dist.run.attempts import Attempt, Span
from ivr_dist.run.goodput import AttemptTimes, Stopwatch, account
from ivr_dist.run.heartbeat import Heartbeat, attempt_times, read_heartbeats
from ivr_dist.training.callbacks.base import Callback, StepReport


class RunMonitor(Callback):
    """Records the progress of one attempt and writes its heartbeats.

    Args:
        run_url: The run's directory.
        attempt: The attempt.
        spans: The run's lineage up to it; the time of the run begins with the first of them.
        stopwatch: Measures the attempt's time.
        total_steps: Steps of the whole run.
        source: State of the checkpoint it continues; None from scratch.
    """

    def __init__(
        self,
        run_url: str,
        attempt: Attempt,
        spans: Sequence[Span],
        stopwatch: Stopwatch,
        total_steps: int,
        source: CheckpointState | None,
    ) -> None:
        self._attempt = attempt
        self._stopwatch = stopwatch
        self._forked = source.spent if source is not None and attempt.parent is not None else {}
        earlier = {number: record for number, record in read_heartbeats(run_url).items() if number < attempt.number}
        self._earlier = attempt_times(earlier, first=spans[0].attempt)
        self._lock = threading.Lock()
        self._now: dict[str, Any] = {"step": attempt.step, "total_steps": total_steps, "checkpoint": ""}
        fixed = {
            "attempt": attempt.number,
            "parent": attempt.parent,
            "world": attempt.world,
            "stage": attempt.stage,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "began": stopwatch.began,
            "forked": self._forked,
        }
        self._heartbeat = Heartbeat(run_url, attempt.number, fixed, self._sample)

    def on_step(self, report: StepReport) -> None:
        """Record the progress."""
        with self._lock:
            self._now |= {
                "step": report.step,
                "epoch": report.epoch_progress,
                "loss": report.loss,
                "samples_per_s": report.samples / max(report.seconds, 1e-9),
            }
            if report.passes:
                self._now["passes"] = dict(report.passes)

    def on_checkpoint(self, name: str, seconds: float, stall_s: float) -> None:
        """Record the newest complete checkpoint."""
        with self._lock:
            self._now |= {"checkpoint": name, "checkpoint_at": time.time()}

    def time_spent(self) -> dict[str, float]:
        """Return the seconds of the run so far by part, over all attempts."""
        own = AttemptTimes(
            self._stopwatch.began, time.time(), self._stopwatch.seconds(), False, self._forked, self._attempt.parent
        )
        return account({**self._earlier, self._attempt.number: own})

    def close(self, how: str) -> None:
        """Write the last heartbeat: the attempt ended `how`, or empty after an error."""
        self._heartbeat.close(how)

    def _sample(self) -> Mapping[str, Any]:
        with self._lock:
            return {**self._now, "seconds": self._stopwatch.seconds()}
