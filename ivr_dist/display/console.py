"""Console of a run: renders events as lines, logs them, and holds the stop request.

The training loop emits the events of `run.events`. In this process they are printed at once; from a Ray worker they
travel through `orchestration.channel` to the driver, which prints and logs them here (decision 002).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TextIO

from ivr_dist.display.plain_output import say
from ivr_dist.run.events import (
    AttemptStarted,
    CheckpointSaved,
    Evaluation,
    Event,
    Note,
    Phase,
    RunEnded,
    StepProgress,
    TimeSpent,
    log_event,
)
from ivr_dist.sanitize import hide_secrets
from ivr_dist.units import format_duration

_CORPORA_SHOWN = 3


class LocalConsole:
    """Prints and logs events in this process.

    Args:
        stream: Where to print; None: stdout.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self.stop = threading.Event()
        """Set to end the run after a checkpoint."""
        self._printed_notes: set[str] = set()
        self.how = ""
        """How the run ended; empty until then."""
        self.time_spent: dict[str, float] = {}
        """Seconds by part over all attempts so far; set at the end of an attempt."""

    def emit(self, event: Event) -> None:
        """Print the line of an event, if it has one, and log the event."""
        if isinstance(event, RunEnded):
            self.how = event.how
        if isinstance(event, TimeSpent):
            self.time_spent = dict(event.parts)
        line = render(event)
        # Workers report notes independently: a note of all of them is printed once.
        if isinstance(event, Note):
            if event.text in self._printed_notes:
                return
            self._printed_notes.add(event.text)
        log_event(event)
        if line is not None:
            say(line, self._stream, flush=True)

    def stop_requested(self) -> bool:
        """Return whether `stop` was set."""
        return self.stop.is_set()


def render(event: Event) -> str | None:
    """Return the line of an event; None for events that are only logged."""
    match event:
        case Note() | Phase():
            return hide_secrets(event.text)
        case StepProgress():
            return _progress(event)
        case Evaluation():
            shown = _shortened(_of_pool(event.metrics))
            metrics = "  ".join(f"{name} {_number(value)}" for name, value in shown.items())
            return f"evaluated {event.split} at step {event.step}: {metrics}{'  (best so far)' if event.best else ''}"
        case CheckpointSaved():
            return f"saved checkpoint {event.name} in {event.seconds:.1f} s, training waited {event.stall_s:.2f} s"
        case AttemptStarted():
            where = f"from step {event.step}" if event.step else f"from {event.origin}"
            return (
                f"attempt {event.attempt}: {event.world} worker{'' if event.world == 1 else 's'}, ZeRO {event.stage}, "
                f"{event.parameters:,} parameters, training {where} to step {event.total_steps}"
            )
        case TimeSpent() | RunEnded():
            return None


def _shortened(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Remove the corpus from the names of metrics if there is only one corpus."""
    corpora = {name.partition("/")[0] for name in metrics}
    return {name.partition("/")[2] if len(corpora) == 1 else name: value for name, value in metrics.items()}


def _progress(event: StepProgress) -> str:
    width = len(str(event.total_steps))
    # All workers wait for the slowest one; a tenth more compute time than the median is worth a remark.
    lagging = ""
    if event.slowest and event.slowest[1] > 0.1:
        lagging = f"  worker {event.slowest[0]} is slowest (+{event.slowest[1]:.0%})"
    return (
        f"step {event.step:>{width}}/{event.total_steps}  epoch {event.epoch:.2f}  loss {event.loss:.4f}  "
        f"lr {event.lr:.2e}  {event.samples_per_s:,.0f} samples/s  data wait {event.wait_share:.0%}  "
        f"{format_duration(event.left_s)} left{_passes(event.passes)}{lagging}"
    )


def _of_pool(metrics: Mapping[str, float | None]) -> Mapping[str, float | None]:
    """Of a pool only the means and the skill of each corpus; the table at the end has all metrics."""
    if not any(name.startswith("macro/") for name in metrics):
        return metrics
    return {name: value for name, value in metrics.items() if name.startswith("macro/") or name.endswith("/skill")}


def _passes(passes: Mapping[str, float]) -> str:
    """Passes so far over the first corpora of a pool."""
    parts = [f"{name} {count:.2f}" for name, count in list(passes.items())[:_CORPORA_SHOWN]]
    return f"  passes {', '.join(parts)}{', ...' if len(passes) > _CORPORA_SHOWN else ''}" if parts else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
