"""The callback protocol: hooks that the trainer calls beside training, such as for progress, curves and alerts.

Reports are equal on all ranks but for the fields that say otherwise. A callback must not call a collective: ranks may
have different callbacks, and one that waits for the others would deadlock training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RunInfo:
    """The attempt that a callback belongs to."""

    run_url: str
    """The run directory."""
    attempt: int
    """Number of the attempt, from 1 on."""
    rank: int
    """This worker's rank, 0 to `world` - 1; a callback that reports once does so on rank 0."""
    world: int
    """Workers of the attempt."""
    step: int
    """Completed steps when it starts."""
    total_steps: int
    """Steps of the whole run."""


@dataclass(frozen=True)
class StepReport:
    """Report of one optimizer step."""

    step: int
    """Completed steps, 1 after the first."""
    epoch: int
    """The epoch of the step, 0 for the first."""
    epoch_progress: float
    """Epochs completed, with the fraction of the running one."""
    loss: float
    """Weighted sum of all terms, over the global batch."""
    terms: Mapping[str, float]
    """Each term over the global batch, unweighted."""
    lr: float
    """Learning rate of the step."""
    grad_norm: float
    """Norm of all gradients before clipping."""
    samples: int
    """Samples of the global batch."""
    seconds: float
    """Duration of the step."""
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
    """The hooks, all optional: override those that are needed.

    Hooks run on the training thread, so their time is training time. An exception in one of them ends the run.
    """

    def on_start(self, run: RunInfo) -> None:
        """Once, before the first step of an attempt."""

    def on_step(self, report: StepReport) -> None:
        """After each optimizer step."""

    def on_left_out(self, step: int, epoch: int, keys: Sequence[str]) -> None:
        """Instead of `on_step` for a step that is not trained; `keys` names this rank's samples of it."""

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """After a split was scored; a metric that is undefined is None, `best`: the best validation so far."""

    def on_before_checkpoint(self) -> Callable[[], None] | None:
        """When a checkpoint begins: return what makes durable all that belongs to its steps; a thread calls it."""

    def on_checkpoint(self, name: str, seconds: float, stall_s: float) -> None:
        """After a checkpoint became complete, `seconds` after it began; training was stalled for `stall_s` of them."""

    def on_close(self) -> None:
        """Once, when training ends for any reason, also after an error."""
