"""TensorBoard callback: curves of losses, metrics, speed and goodput."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from ivr_dist.training.callbacks.base import Callback, StepReport
from ivr_dist.training.callbacks.event_files import TensorBoard


class TensorBoardCurves(Callback):
    """Writes TensorBoard curves; on rank 0.

    Args:
        board: The files.
        every: Steps between two points.
        reader: Returns the meters of this rank's reader of the training split, by name.
        time_spent: Returns the seconds of the run so far, by part.
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
        self._skipped: Counter[str] = Counter()

    def on_step(self, report: StepReport) -> None:
        """Sum up rates, and add points every `log.every` steps."""
        self._samples += report.samples
        self._seconds += report.seconds
        self._wait_s += report.wait_s
        self._skipped.update(report.unreadable)
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
        self._board.scalars(
            {
                **{f"corpus/{name}/share": value for name, value in report.shares.items()},
                **{f"corpus/{name}/passes": value for name, value in report.passes.items()},
                **{f"corpus/{name}/padding": value for name, value in report.padding.items()},
                # Since the point before, so that a restart loses nothing.
                **{f"corpus/{name}/skipped": value for name, value in self._skipped.items()},
            },
            report.step,
        )
        self._samples = 0
        self._seconds = self._wait_s = 0.0
        self._skipped.clear()

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """Add the metrics as points."""
        self._board.scalars({f"{split}/{name}": value for name, value in metrics.items()}, step)

    def on_checkpoint(self, name: str, seconds: float, stall_s: float) -> None:
        """Add its duration as points."""
        step = int(name.partition(".")[0].rpartition("-")[2])
        self._board.scalars({"checkpoint/seconds": seconds, "checkpoint/stall_s": stall_s}, step)

    def on_close(self) -> None:
        """Flush and close the files."""
        self._board.close()
