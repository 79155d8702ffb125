"""What an audit found: the verdict, by epoch and over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SHOWN = 5
"""Examples that are given of a fault."""


@dataclass
class EpochAudit:
    """What one epoch's records say."""

    epoch: int
    complete: bool
    """Whether all its steps count, and so must be recorded."""
    steps: int = 0
    """Steps with a sound record of every worker."""
    seen: int = 0
    """Samples trained on."""
    skipped: list[str] = field(default_factory=list)
    """Left out: unreadable with `data.on_error=skip`, or part of a step that `train.on_fault` skipped."""
    missing: int = 0
    """Samples of steps that count of which there is no record."""
    to_come: int = 0
    """Samples of steps that do not count yet, and are not recorded either."""
    twice: list[str] = field(default_factory=list)
    """Recorded once more than they should be."""
    elsewhere: list[str] = field(default_factory=list)
    """Recorded at a step that does not hold them."""
    unknown: list[str] = field(default_factory=list)
    """Not in the split."""
    examples: list[str] = field(default_factory=list)
    """A few of those that are missing."""

    @property
    def ok(self) -> bool:
        """Nothing twice, nothing forged, and nothing missing."""
        return not (self.twice or self.elsewhere or self.unknown or self.missing)

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.ok:
            return "WRONG"
        return ("exactly once" if self.complete else "so far once") + (" or skipped" if self.skipped else "")


@dataclass
class AuditReport:
    """The verdict over all epochs."""

    run: str
    samples: int
    attempts: int
    reach: int
    """The last step that counts: of the newest complete checkpoint, or of the result."""
    epochs: list[EpochAudit] = field(default_factory=list)
    lost_steps: list[int] = field(default_factory=list)
    """Steps that count without a record of every worker."""
    repeated_steps: list[int] = field(default_factory=list)
    """Steps with more than one record of a worker."""
    forged: list[str] = field(default_factory=list)
    """Lines that nobody can have written, a sentence each."""

    @property
    def ok(self) -> bool:
        """Each sample counted exactly once, or was skipped, in every complete epoch, and at most once in the last."""
        faults = self.lost_steps or self.repeated_steps or self.forged
        return not faults and all(epoch.ok for epoch in self.epochs)

    @property
    def skipped(self) -> int:
        """Samples that were left out, over all epochs."""
        return sum(len(epoch.skipped) for epoch in self.epochs)

    @property
    def faults(self) -> list[str]:
        """What is wrong besides single samples, a sentence each."""
        found = [
            f"{len(steps)} steps {what}: {_listed(steps)}"
            for steps, what in (
                (self.lost_steps, "have no complete record"),
                (self.repeated_steps, "are recorded more than once"),
            )
            if steps
        ]
        if self.forged:
            found.append(f"{len(self.forged)} lines are forged or damaged: {_listed(self.forged)}")
        return found

    def rows(self) -> list[tuple[str, ...]]:
        """One row an epoch: epoch, steps, seen, skipped, missing, twice, elsewhere, unknown, verdict."""
        return [
            (
                str(epoch.epoch),
                str(epoch.steps),
                str(epoch.seen),
                str(len(epoch.skipped)),
                _missing(epoch),
                str(len(epoch.twice)),
                str(len(epoch.elsewhere)),
                str(len(epoch.unknown)),
                epoch.verdict,
            )
            for epoch in self.epochs
        ]

    def to_json(self) -> dict[str, Any]:
        """The verdict for machines; at most a few examples of each fault."""
        return {
            "run": self.run,
            "ok": self.ok,
            "samples": self.samples,
            "attempts": self.attempts,
            "reach": self.reach,
            "lost_steps": self.lost_steps[:SHOWN],
            "repeated_steps": self.repeated_steps[:SHOWN],
            "forged": self.forged[:SHOWN],
            "epochs": [
                {
                    "epoch": e.epoch,
                    "complete": e.complete,
                    "steps": e.steps,
                    "seen": e.seen,
                    "skipped": len(e.skipped),
                    "missing": e.missing,
                    "twice": len(e.twice),
                    "elsewhere": len(e.elsewhere),
                    "unknown": len(e.unknown),
                    "examples": (e.twice + e.elsewhere + e.unknown + e.examples)[:SHOWN],
                }
                for e in self.epochs
            ],
        }


def _missing(epoch: EpochAudit) -> str:
    coming = f"({epoch.to_come} to come)"
    if epoch.complete:
        return str(epoch.missing)
    return f"{epoch.missing} {coming}" if epoch.missing else coming


def _listed(found: Sequence[object]) -> str:
    return ", ".join(map(str, found[:SHOWN])) + (", ..." if len(found) > SHOWN else "")
