"""Callback protocol of the training loop, and the report of each step.

Callbacks see reports that are equal on all ranks; they never take part in a collective, so a rank may have fewer of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """Report of one optimizer step."""

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
    """Base class of callbacks; every hook is optional."""

    def on_step(self, report: StepReport) -> None:
        """After each optimizer step."""

    def on_left_out(self, step: int, epoch: int, keys: Sequence[str]) -> None:
        """Instead of `on_step` for a step that is not trained; `keys` names this rank's samples of it."""

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """After a split was scored; `best` tells that it is the best validation so far."""

    def on_before_checkpoint(self) -> Callable[[], None] | None:
        """When a checkpoint is begun: what makes durable all that belongs to its steps, to be called in a thread."""

    def on_checkpoint(self, name: str, seconds: float, stall_s: float) -> None:
        """After a checkpoint became complete, `seconds` after it was begun; training was stalled for `stall_s`."""

    def on_close(self) -> None:
        """Once, when training ends for whatever reason."""
