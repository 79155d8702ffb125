"""What a run says while it goes, and the wish to stop it.

The training loop emits the events of `run.events`; here they become lines. In this process they are printed at once;
from a Ray worker they travel through `orchestration.channel` to the driver, which prints them with the same function.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TextIO

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
from ivr_dist.sanitize import hide_secrets, say
from ivr_dist.units import format_duration


class LocalConsole:
    """Prints events in this process."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self.stop = threading.Event()
        self._noted: set[str] = set()
        self.how = ""
        """How the run ended, once it has."""
        self.time_spent: dict[str, float] = {}
        """Seconds by part, of all attempts so far; known when an attempt has ended."""

    def emit(self, event: Event) -> None:
        """Print the event's line, if it has one."""
        if isinstance(event, RunEnded):
            self.how = event.how
        if isinstance(event, TimeSpent):
            self.time_spent = dict(event.parts)
        line = render(event)
        # Every worker notes what it meets; what they all meet is said once.
        if isinstance(event, Note):
            if event.text in self._noted:
                return
            self._noted.add(event.text)
        log_event(event)
        if line is not None:
            say(line, self._stream, flush=True)

    def stop_requested(self) -> bool:
        """Whether `stop` was set, by a signal handler or a test."""
        return self.stop.is_set()


def render(event: Event) -> str | None:
    """The line of one event; None for events that only machines read."""
    match event:
        case Note() | Phase():
            return hide_secrets(event.text)
        case StepProgress():
            return _progress(event)
        case Evaluation():
            metrics = "  ".join(f"{name} {_number(value)}" for name, value in _shortened(event.metrics).items())
            return f"evaluated {event.split} at step {event.step}: {metrics}{'  (best so far)' if event.best else ''}"
        case CheckpointSaved():
            return f"saved checkpoint {event.name} in {event.seconds:.1f} s, training waited {event.stall_s:.2f} s"
        case AttemptStarted():
            where = f"from step {event.step}" if event.step else "from scratch"
            return (
                f"attempt {event.attempt}: {event.world} workers, ZeRO {event.stage}, "
                f"{event.parameters:,} parameters, training {where} to step {event.total_steps}"
            )
        case TimeSpent() | RunEnded():
            return None


def _shortened(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Without the corpus in each name, where there is one corpus only."""
    corpora = {name.partition("/")[0] for name in metrics}
    return {name.partition("/")[2] if len(corpora) == 1 else name: value for name, value in metrics.items()}


def _progress(event: StepProgress) -> str:
    width = len(str(event.total_steps))
    # A worker whose own work takes a tenth longer than the others' holds them up.
    lagging = ""
    if event.slowest and event.slowest[1] > 0.1:
        lagging = f"  worker {event.slowest[0]} is slowest (+{event.slowest[1]:.0%})"
    return (
        f"step {event.step:>{width}}/{event.total_steps}  epoch {event.epoch:.2f}  loss {event.loss:.4f}  "
        f"lr {event.lr:.2e}  {event.samples_per_s:,.0f} samples/s  data wait {event.wait_share:.0%}  "
        f"{format_duration(event.left_s)} left{lagging}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
