"""Events of a run: what the training loop emits, and the console protocol that takes them.

In the driver's own process events are printed at once; from a Ray worker they travel as JSON through
`orchestration.channel` to the driver, which prints them with the same function and logs them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from ivr_dist.sanitize import hide_secrets, plain

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """A note for the user, printed once even if several workers report it."""

    text: str


@dataclass(frozen=True)
class Phase:
    """A phase of the run before or between steps."""

    text: str
    failures: int = 0
    """Worker failures that this event reports."""


@dataclass(frozen=True)
class AttemptStarted:
    """An attempt is about to train its first step."""

    attempt: int
    step: int
    """Completed steps that it starts from."""
    total_steps: int
    world: int
    stage: int
    """ZeRO stage."""
    parameters: int
    origin: str = "scratch"
    """What a run of no steps starts from: `scratch`, or the weights of a checkpoint."""


@dataclass(frozen=True)
class StepProgress:
    """Training progress, emitted about once a second."""

    step: int
    total_steps: int
    epoch: float
    """Epochs completed, with the fraction of the running one."""
    loss: float
    lr: float
    samples_per_s: float
    wait_share: float
    """Share of the time that rank 0 waited for data."""
    left_s: float
    """Estimate of the seconds until the last step."""
    slowest: tuple[int, float] | None = None
    """The slowest rank, and how much longer than the median rank it takes; 0.1 is a tenth."""
    passes: Mapping[str, float] = field(default_factory=dict)
    """Passes so far over each corpus of a pool."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a split."""

    split: str
    step: int
    metrics: Mapping[str, float | None]
    best: bool
    """Whether this is the best validation score so far."""


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint has become complete."""

    name: str
    seconds: float
    """Seconds from its beginning until it was complete."""
    stall_s: float
    """Seconds that it stalled training."""


@dataclass(frozen=True)
class TimeSpent:
    """Seconds of the run by part, over all attempts so far; emitted at the end of an attempt."""

    parts: Mapping[str, float]
    how: str
    """How the attempt ended; empty after an error."""


@dataclass(frozen=True)
class RunEnded:
    """Training has ended without an error."""

    how: str


Event = Note | Phase | AttemptStarted | StepProgress | Evaluation | CheckpointSaved | TimeSpent | RunEnded

_KINDS: dict[str, Callable[..., Event]] = {
    "note": Note,
    "phase": Phase,
    "start": AttemptStarted,
    "progress": StepProgress,
    "evaluation": Evaluation,
    "checkpoint": CheckpointSaved,
    "time": TimeSpent,
    "ended": RunEnded,
}
_NAMES: dict[Any, str] = {event_type: kind for kind, event_type in _KINDS.items()}


class Console(Protocol):
    """Receiver of a run's events (the dataclasses of `ivr_dist.run.events`), and source of the user's stop request."""

    def emit(self, event: Event) -> None:
        """Handle one event; never blocks for long."""

    def stop_requested(self) -> bool:
        """Whether the user wants the run to end after a checkpoint."""


def to_json(event: Event) -> dict[str, Any]:
    """Convert an event to a JSON-able dict: its `kind` and its fields."""
    return {"kind": _NAMES[type(event)], **asdict(event)}


def from_json(value: Mapping[str, Any]) -> Event:
    """Rebuild an event from the value of `to_json`, also after a round trip through JSON text.

    Raises:
        ValueError: There is no such kind, or its fields are wrong.
    """
    fields = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items() if name != "kind"}
    event_type = _KINDS.get(value.get("kind", ""))
    if event_type is None:
        raise ValueError(f"no event is of kind {value.get('kind')!r}")
    try:
        return event_type(**fields)
    except TypeError as error:
        raise ValueError(f"the fields of an event are wrong: {error}") from None


def log_event(event: Event) -> None:
    """Log an event at INFO, without secrets of URLs; a structured handler finds its fields as `record.event`."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = {
        name: hide_secrets(plain(item)) if isinstance(item, str) else item for name, item in to_json(event).items()
    }
    text = " ".join(f"{name}={item}" for name, item in fields.items() if name != "kind")
    logger.info("%s: %s", fields["kind"], text, extra={"event": fields})
