"""What happens beside training: progress, curves, ledgers. One hook list, one class a concern.

Callbacks see reports that are equal on all ranks; they never take part in a collective, so a rank may have fewer of
them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ivr_dist.console import Console
from ivr_dist.ledger import LedgerWriter
from ivr_dist.sinks import TensorBoard


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, after it."""

    step: int
    """Completed steps, 1 after the first."""
    epoch: int
    epoch_progress: float
    """Epochs completed, with the fraction of the running one."""
    loss: float
    """Weighted sum of all terms, over the global batch."""
    terms: Mapping[str, float]
    """Each term over the global batch, unweighted."""
    lr: float
    grad_norm: float
    samples: int
    """Samples of the global batch."""
    seconds: float
    wait_s: float
    """Seconds of it that this rank waited for data."""
    svr: Mapping[str, float]
    """Measurements of the regularizer's gradient; empty on steps that do not measure it."""
    keys: Sequence[str]
    """Ids of the samples that this rank trained on."""
    skipped: Sequence[str] = ()
    """This rank's samples that were left out: names of unreadable ones, ids of those of a skipped step."""
    skipped_in_epoch: int = 0
    """Over all ranks, so far."""
    fault: str = ""
    """Why the step left the weights as they were; empty if it did not."""
    slowest: tuple[int, float] | None = None
    """The rank that took longest over its data and forward passes, and by how much of the median rank's time."""


class Callback:
    """The hooks, all optional."""

    def on_step(self, report: StepReport) -> None:
        """After each optimizer step."""

    def on_left_out(self, step: int, epoch: int, keys: Sequence[str]) -> None:
        """Instead of `on_step` for a step that is not trained; `keys` names this rank's samples of it."""

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """After a split was scored; `best` tells that it is the best validation so far."""

    def on_before_checkpoint(self) -> Callable[[], None] | None:
        """When a checkpoint is begun: what makes durable all that belongs to its steps, to be called in a thread."""

    def on_checkpoint(self, name: str, seconds: float, stall_s: float) -> None:
        """After a checkpoint became complete, `seconds` after it was begun; training stood still for `stall_s`."""

    def on_close(self) -> None:
        """Once, when training ends for whatever reason."""


class AuditLedger(Callback):
    """Records the ids trained on; on every rank."""

    def __init__(self, writer: LedgerWriter) -> None:
        self._writer = writer

    def on_step(self, report: StepReport) -> None:
        """Record what was decoded and trained on, never what was planned."""
        record: dict[str, Any] = {"step": report.step, "epoch": report.epoch, "ids": list(report.keys)}
        if report.skipped:
            record["skipped"] = list(report.skipped)
        self._writer.append(record)

    def on_left_out(self, step: int, epoch: int, keys: Sequence[str]) -> None:
        """Record what was not trained on."""
        self._writer.append({"step": step, "epoch": epoch, "ids": [], "skipped": list(keys)})

    def on_before_checkpoint(self) -> Callable[[], None]:
        """Cut here."""
        return self._writer.cut()

    def on_close(self) -> None:
        """Flush."""
        self._writer.flush()


class History(Callback):
    """Records loss and metrics by step; on rank 0."""

    def __init__(self, writer: LedgerWriter) -> None:
        self._writer = writer

    def on_step(self, report: StepReport) -> None:
        """Record the loss of every step that counted."""
        if report.fault:
            return
        self._writer.append(
            {"step": report.step, "loss": report.loss, "terms": dict(report.terms), "grad_norm": report.grad_norm}
        )

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """Record the metrics."""
        self._writer.append({"step": step, "split": split, "metrics": dict(metrics)})

    def on_before_checkpoint(self) -> Callable[[], None]:
        """Cut here."""
        return self._writer.cut()

    def on_close(self) -> None:
        """Flush."""
        self._writer.flush()


class Progress(Callback):
    """A line on the console about once a second; on rank 0."""

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
        """Sum up, and print when it is time or the end."""
        self._samples += report.samples
        self._seconds += report.seconds
        self._wait_s += report.wait_s
        self._steps += 1
        now = time.monotonic()
        if now - self._last_line < self._period_s and report.step < self._total_steps:
            return
        # The time left follows the recent pace, which smooths over single slow steps.
        recent = (now - self._last_line) / self._steps
        self._step_s = recent if self._step_s is None else 0.7 * self._step_s + 0.3 * recent
        self._console.emit(
            {
                "kind": "progress",
                "step": report.step,
                "total_steps": self._total_steps,
                "epoch": report.epoch_progress,
                "loss": report.loss,
                "lr": report.lr,
                "samples_per_s": self._samples / max(self._seconds, 1e-9),
                "wait_share": self._wait_s / max(self._seconds, 1e-9),
                "left_s": (self._total_steps - report.step) * self._step_s,
                "slowest": report.slowest,
            }
        )
        self._last_line = now
        self._samples = self._steps = 0
        self._seconds = self._wait_s = 0.0

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """Print the metrics."""
        self._console.emit({"kind": "evaluation", "split": split, "step": step, "metrics": dict(metrics), "best": best})

    def on_checkpoint(self, name: str, seconds: float, stall_s: float) -> None:
        """Print the name."""
        self._console.emit({"kind": "checkpoint", "name": name, "seconds": seconds, "stall_s": stall_s})


class Curves(Callback):
    """TensorBoard; on rank 0.

    Args:
        board: The files.
        every: Steps between two points.
        reader: What this rank's reader of the training split has done so far, by name.
        time_spent: Seconds of the run so far, by part.
    """

    def __init__(
        self,
        board: TensorBoard,
        every: int,
        reader: Callable[[], Mapping[str, float]] = dict,
        time_spent: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._board = board
        self._every = every
        self._reader = reader
        self._time_spent = time_spent
        self._samples = 0
        self._seconds = 0.0
        self._wait_s = 0.0

    def on_step(self, report: StepReport) -> None:
        """Sum up rates, and add points every `log.every` steps."""
        self._samples += report.samples
        self._seconds += report.seconds
        self._wait_s += report.wait_s
        if report.svr:
            self._board.scalars({f"svr/{name}": value for name, value in report.svr.items()}, report.step)
        if report.fault or (report.step % self._every and report.step != 1):
            return
        self._board.scalars({"loss/total": report.loss}, report.step)
        self._board.scalars({f"loss/{name}": value for name, value in report.terms.items()}, report.step)
        self._board.scalars(
            {
                "train/learning_rate": report.lr,
                "train/gradient_norm": report.grad_norm,
                "train/epoch": report.epoch_progress,
                "speed/samples_per_s": self._samples / max(self._seconds, 1e-9),
                "speed/data_wait_share": self._wait_s / max(self._seconds, 1e-9),
                "reader/skipped_in_epoch": report.skipped_in_epoch,
                **{f"reader/{name}": value for name, value in self._reader().items()},
                **{f"goodput/{name}": value for name, value in self._time_spent().items()},
            },
            report.step,
        )
        self._samples = 0
        self._seconds = self._wait_s = 0.0

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """Add the metrics as points."""
        self._board.scalars({f"{split}/{name}": value for name, value in metrics.items()}, step)

    def on_checkpoint(self, name: str, seconds: float, stall_s: float) -> None:
        """Add how long it took."""
        step = int(name.partition(".")[0].rpartition("-")[2])
        self._board.scalars({"checkpoint/seconds": seconds, "checkpoint/stall_s": stall_s}, step)

    def on_close(self) -> None:
        """Write everything out."""
        self._board.close()
