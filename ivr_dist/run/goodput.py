"""Where the time of a run goes: each second of each attempt has one name, and so have the gaps between attempts.

Rank 0 measures; what it knows travels in the attempt's pulse, and what a checkpoint was worth in its `state.json`. An
attempt that was killed is known up to its last pulse; what lies between that and the next attempt is time lost to the
restart.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PARTS = ("training", "data", "checkpoint", "evaluation", "starting", "redone", "restarting")
"""training: steps that count; data: waiting for batches; checkpoint: standing still for one; evaluation: scoring;
starting: until the first step; redone: steps and waiting that a fault made worthless; restarting: between attempts."""

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
        """Everything since the last lap was `part`."""
        now = time.monotonic()
        self._last[part] = now - self._mark
        self._seconds[part] += self._last[part]
        self._mark = now

    def last(self, part: str) -> float:
        """Seconds of the last lap of this part."""
        return self._last[part]

    @property
    def fresh(self) -> bool:
        """Whether nothing but starting has been done yet."""
        return not any(seconds for part, seconds in self._seconds.items() if part != "starting")

    def seconds(self) -> dict[str, float]:
        """By part, up to the last lap."""
        return dict(self._seconds)


@dataclass(frozen=True)
class AttemptTimes:
    """What is known of one attempt's time."""

    began: float
    """Unix time."""
    seen: float
    """Unix time of the last sign of life."""
    seconds: Mapping[str, float]
    """By part, up to some moment before `seen`."""
    ended: bool
    """Whether it ended by itself; else it was cut off."""
    forked: Mapping[str, float] = field(default_factory=dict)
    """What its parent had spent, by part, when it wrote the checkpoint that this attempt continues."""
    parent: int | None = None

    def complete(self) -> dict[str, float]:
        """Seconds by part up to the last sign of life: what had no name yet then is what was going on."""
        found = {**dict.fromkeys(_MEASURED, 0.0), **self.seconds}
        going_on = "training" if found["training"] else "starting"
        found[going_on] += max(self.seen - self.began - sum(found.values()), 0.0)
        return found

    @classmethod
    def from_pulse(cls, pulse: Mapping[str, Any]) -> AttemptTimes:
        """From what an attempt left in storage."""
        seconds, forked = (_measured(pulse[name]) for name in ("seconds", "forked"))
        return cls(pulse["began"], pulse["seen"], seconds, pulse["ended"], forked, pulse.get("parent"))


def _measured(parts: Mapping[str, float]) -> dict[str, float]:
    """Without names that another version may have written."""
    return {part: parts[part] for part in _MEASURED if part in parts}


def account(attempt_times: Mapping[int, AttemptTimes]) -> dict[str, float]:
    """Seconds of a run by the names of `PARTS`; they add up to its time without the pauses the user made.

    Args:
        attempt_times: By attempt number.
    """
    found = dict.fromkeys(PARTS, 0.0)
    order: Sequence[int] = sorted(attempt_times)
    worth = _worth(attempt_times)
    for number, life in attempt_times.items():
        spent = life.complete()
        kept = worth.get(number, dict.fromkeys(_MEASURED, 0.0))
        for part, seconds in spent.items():
            lost = max(seconds - kept[part], 0.0) if part in ("training", "data") else 0.0
            found[part] += seconds - lost
            found["redone"] += lost
    for before, after in itertools.pairwise(order):
        if not attempt_times[before].ended:
            found["restarting"] += max(attempt_times[after].began - attempt_times[before].seen, 0.0)
    return found


def _worth(attempt_times: Mapping[int, AttemptTimes]) -> dict[int, Mapping[str, float]]:
    """What counts of each attempt that the newest one builds on: its time up to the checkpoint that was taken over."""
    found: dict[int, Mapping[str, float]] = {}
    number = max(attempt_times, default=None)
    kept: Mapping[str, float] | None = None
    while number is not None and number in attempt_times and number not in found:
        life = attempt_times[number]
        found[number] = life.complete() if kept is None else {**dict.fromkeys(_MEASURED, 0.0), **kept}
        kept, number = life.forked, life.parent
    return found


def rows(parts: Mapping[str, float]) -> list[tuple[str, str]]:
    """A table of the parts that took any time, with their shares."""
    total = sum(parts.values())
    if total <= 0:
        return []
    head = ("goodput", f"{parts['training'] / total:.1%} of {total:.1f} s trained steps that count")
    return [head, *((name, f"{parts[name]:.1f} s") for name in PARTS if name != "training" and parts[name] >= 0.05)]
