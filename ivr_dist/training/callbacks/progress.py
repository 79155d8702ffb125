"""Progress callback: a line on the console about once a second."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ivr_dist.run.events import CheckpointSaved, Console, Evaluation, StepProgress
from ivr_dist.training.callbacks.base import Callback, StepReport


class ProgressLine(Callback):
    """Emits a progress line about once a second; on rank 0."""

    def __init__(self, console: Console, *, total_steps: int, period_s: float) -> None:
        self._console = console
        self._total_steps = total_steps
        self._period_s = period_s
        self._last_line = time.monotonic()
        self._samples = 0
        self._seconds = 0.0
        self._wait_s = 0.0
        self._steps = 0
        self._step_s: float | None = None

    def on_step(self, report: StepReport) -> None:
        """Accumulate rates; emit a line when one is due and after the last step."""
        self._samples += report.samples
        self._seconds += report.seconds
        self._wait_s += report.wait_s
        self._steps += 1
        now = time.monotonic()
        if now - self._last_line < self._period_s and report.step < self._total_steps:
            return
        # An exponential moving average smooths the estimate over single slow steps.
        recent = (now - self._last_line) / self._steps
        self._step_s = recent if self._step_s is None else 0.7 * self._step_s + 0.3 * recent
        self._console.emit(
            StepProgress(
                step=report.step,
                total_steps=self._total_steps,
                epoch=report.epoch_progress,
                loss=report.loss,
                lr=report.lr,
                samples_per_s=self._samples / max(self._seconds, 1e-9),
                wait_share=self._wait_s / max(self._seconds, 1e-9),
                left_s=(self._total_steps - report.step) * self._step_s,
                slowest=report.slowest,
                passes=dict(report.passes),
            )
        )
        self._last_line = now
        self._samples = self._steps = 0
        self._seconds = self._wait_s = 0.0

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """Emit the metrics."""
        self._console.emit(Evaluation(split, step, dict(metrics), best))

    def on_checkpoint(self, name: str, seconds: float, stall_s: float) -> None:
        """Emit the checkpoint's name and times."""
        self._console.emit(CheckpointSaved(name, seconds, stall_s))
