"""Goodput: the share of a run's time spent on steps that count, and a breakdown of the rest.

Each second of an attempt belongs to one part, and so does each gap between attempts. Rank 0 measures; its seconds are
stored in the attempt's heartbeat, and the seconds up to a checkpoint in its `state.json`. The times of a killed attempt
are those of its last heartbeat; the time until the next attempt counts as restarting.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PARTS = ("training", "data", "checkpoint", "evaluation", "starting", "redone", "restarting")
"""training: steps that count; data: waiting for batches; checkpoint: stalled by one; evaluation: scoring;
starting: until the first step; redone: steps and waiting that a failure lost; restarting: between attempts."""

_MEASURED = ("training", "data", "checkpoint", "evaluation", "starting")


class Stopwatch:
    """The seconds of one attempt by part.

    Args:
        began: Unix time at which the attempt's time starts.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self._seconds = dict.fromkeys(_MEASURED, 0.0)
        self._last = dict.fromkeys(_MEASURED, 0.0)
        self._mark = time.monotonic()
        self._seconds["starting"] = max(time.time() - began, 0.0)

    def lap(self, part: str) -> None:
        """Add the time since the last lap to `part`."""
        now = time.monotonic()
        self._last[part] = now - self._mark
        self._seconds[part] += self._last[part]
        self._mark = now

    def last(self, part: str) -> float:
        """Return the seconds of the last lap of this part."""
        return self._last[part]

    @property
    def fresh(self) -> bool:
        """Whether no lap but `starting` has been recorded yet."""
        return not any(seconds for part, seconds in self._seconds.items() if part != "starting")

    def seconds(self) -> dict[str, float]:
        """Return the seconds by part, up to the last lap."""
        return dict(self._seconds)


@dataclass(frozen=True)
class AttemptTimes:
    """Times of one attempt."""

    began: float
    """Unix time."""
    seen: float
    """Unix time of the last heartbeat."""
    seconds: Mapping[str, float]
    """By part, up to some moment before `seen`."""
    ended: bool
    """Whether it ended by itself; False if it was killed."""
    forked: Mapping[str, float] = field(default_factory=dict)
    """Seconds its parent had spent, by part, when it wrote the checkpoint that this attempt continues."""
    parent: int | None = None

    def complete(self) -> dict[str, float]:
        """Return the seconds by part up to the last heartbeat; unaccounted time goes to the part that was running."""
        seconds = {**dict.fromkeys(_MEASURED, 0.0), **self.seconds}
        running = "training" if seconds["training"] else "starting"
        seconds[running] += max(self.seen - self.began - sum(seconds.values()), 0.0)
        return seconds

    @classmethod
    def from_heartbeat(cls, record: Mapping[str, Any]) -> AttemptTimes:
        """Build the times from a heartbeat record."""
        seconds, forked = (_measured(record[name]) for name in ("seconds", "forked"))
        return cls(record["began"], record["seen"], seconds, record["ended"], forked, record.get("parent"))


def _measured(parts: Mapping[str, float]) -> dict[str, float]:
    """Drop parts that another version may have written."""
    return {part: parts[part] for part in _MEASURED if part in parts}


def account(attempt_times: Mapping[int, AttemptTimes]) -> dict[str, float]:
    """Break down the time of a run into `PARTS`; the sum is its time without pauses between commands.

    Args:
        attempt_times: By attempt number.
    """
    total = dict.fromkeys(PARTS, 0.0)
    order: Sequence[int] = sorted(attempt_times)
    worth = _worth(attempt_times)
    for number, times in attempt_times.items():
        spent = times.complete()
        counted = worth.get(number, dict.fromkeys(_MEASURED, 0.0))
        for part, seconds in spent.items():
            lost = max(seconds - counted[part], 0.0) if part in ("training", "data") else 0.0
            total[part] += seconds - lost
            total["redone"] += lost
    for before, after in itertools.pairwise(order):
        if not attempt_times[before].ended:
            total["restarting"] += max(attempt_times[after].began - attempt_times[before].seen, 0.0)
    return total


def _worth(attempt_times: Mapping[int, AttemptTimes]) -> dict[int, Mapping[str, float]]:
    """Return the time that counts of each attempt in the lineage: up to the checkpoint that the next one continued."""
    worth: dict[int, Mapping[str, float]] = {}
    number = max(attempt_times, default=None)
    counted: Mapping[str, float] | None = None
    while number is not None and number in attempt_times and number not in worth:
        times = attempt_times[number]
        worth[number] = times.complete() if counted is None else {**dict.fromkeys(_MEASURED, 0.0), **counted}
        counted, number = times.forked, times.parent
    return worth


def rows(parts: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return table rows of the parts that took any time."""
    total = sum(parts.values())
    if total <= 0:
        return []
    head = ("goodput", f"{parts['training'] / total:.1%} of {total:.1f} s trained steps that count")
    return [head, *((name, f"{parts[name]:.1f} s") for name in PARTS if name != "training" and parts[name] >= 0.05)]
