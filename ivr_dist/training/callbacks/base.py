"""The callback protocol: hooks that the trainer calls, such as for progress, curves and alerts.

Reports are equal on all ranks, except for fields documented otherwise. A callback must not call a collective: ranks may
have different callbacks, and one that waits for the others would deadlock training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


class PooledKey(str):
    """The id of a sample of a pool, with its corpus and the pass over it that the sample is used in."""

    corpus: str
    """Name of the corpus."""
    number: int
    """The pass over the corpus, 0 for the first."""

    @classmethod
    def of(cls, name: str, corpus: str, number: int) -> PooledKey:
        """Create the key of a sample."""
        key = cls(name)
        key.corpus = corpus
        key.number = number
        return key


@dataclass(frozen=True)
class RunInfo:
    """Information about the attempt, passed to `on_start`."""

    run_url: str
    """The run directory."""
    attempt: int
    """Number of the attempt, from 1 on."""
    rank: int
    """This worker's rank, 0 to `world` - 1; a callback that reports once does so on rank 0."""
    world: int
    """Workers of the attempt."""
    step: int
    """Completed steps at its start."""
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
    """Ids of the samples that this rank trained on; in a pool each is a `PooledKey`, here and below."""
    skipped: Sequence[str] = ()
    """This rank's samples that were not trained on: names of unreadable ones, ids of those of a skipped step."""
    skipped_in_epoch: int = 0
    """Samples of the epoch skipped so far, over all ranks."""
    excluded: Sequence[str] = ()
    """Names of this rank's samples that the run leaves out, by `data.exclude` or as leakage."""
    fault: str = ""
    """Why the step did not update the weights; empty if it did."""
    passes: Mapping[str, float] = field(default_factory=dict)
    """Passes so far over each trained corpus of a pool."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of each corpus of a pool in the samples of the step."""
    padding: Mapping[str, float] = field(default_factory=dict)
    """Share of padding in the time steps that the samples of each corpus of a pool take up in micro-batches, of the
    longest modality; without corpora that the step has no sample of."""
    unreadable: Mapping[str, int] = field(default_factory=dict)
    """Samples of each corpus of a pool in the step that could not be read, over all ranks."""
    slowest: tuple[int, float] | None = None
    """The rank slowest at its data and forward passes, and its excess as a share of the median rank's time."""


class Callback:
    """Base class of callbacks; every hook is optional.

    Hooks run on the training thread, so their time is training time. An exception in one of them ends the run.
    """

    def on_start(self, run: RunInfo) -> None:
        """Called once, before the first step of an attempt."""

    def on_step(self, report: StepReport) -> None:
        """Called after each optimizer step."""

    def on_left_out(self, step: int, epoch: int, keys: Sequence[str]) -> None:
        """Called instead of `on_step` for a step that is not trained; `keys` are this rank's sample ids."""

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """Called after a split was scored; undefined metrics are None; `best`: the best validation score so far."""

    def on_before_checkpoint(self) -> Callable[[], None] | None:
        """Called when a checkpoint begins; returns a function that makes records durable, called by a thread."""

    def on_checkpoint(self, name: str, seconds: float, stall_s: float) -> None:
        """Called once a checkpoint is complete, `seconds` after it began; it stalled training for `stall_s` of them."""

    def on_close(self) -> None:
        """Called once, when training ends for any reason, including an error."""
