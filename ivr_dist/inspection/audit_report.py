"""Result of an audit: a verdict per epoch and one for the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar

SHOWN = 5
"""Number of examples that are listed of a problem."""


@dataclass
class EpochAudit:
    """Result of one epoch, or of one pass over a corpus of a pool."""

    epoch: int
    complete: bool
    """Whether all its steps count, so that all must be recorded."""
    steps: int = 0
    """Steps with a correct record of every worker."""
    seen: int = 0
    """Samples trained on."""
    skipped: list[str] = field(default_factory=list)
    """Samples left out: unreadable with `data.on_error=skip`, or in a step that `train.on_fault` skipped."""
    missing: int = 0
    """Samples of counted steps without a record."""
    to_come: int = 0
    """Samples of steps that do not count yet and have no record yet."""
    twice: list[str] = field(default_factory=list)
    """Samples recorded more than once."""
    elsewhere: list[str] = field(default_factory=list)
    """Samples recorded at a step that does not contain them."""
    unknown: list[str] = field(default_factory=list)
    """Recorded ids that are not in the split."""
    left_out: int = 0
    """Samples of recorded steps that the run leaves out."""
    trained_though_left_out: list[str] = field(default_factory=list)
    """Samples that were trained on although the run leaves them out."""
    examples: list[str] = field(default_factory=list)
    """A few of the missing samples."""
    corpus: str = ""
    """The corpus of a pool, whose pass `epoch` is; empty where there is one corpus."""

    @property
    def ok(self) -> bool:
        """Whether no sample is missing, recorded twice, at another step, unknown, or trained on though left out."""
        return not (self.twice or self.elsewhere or self.unknown or self.missing or self.trained_though_left_out)

    @property
    def verdict(self) -> str:
        """The result in words."""
        if not self.ok:
            return "WRONG"
        alternatives = (" or skipped" if self.skipped else "") + (" or left out" if self.left_out else "")
        return ("exactly once" if self.complete else "so far once") + alternatives


@dataclass
class AuditReport:
    """Result of an audit, over all epochs."""

    columns: ClassVar[Sequence[str]] = (
        "epoch",
        "steps",
        "seen",
        "skipped",
        "missing",
        "twice",
        "elsewhere",
        "unknown",
        "verdict",
    )
    """Column names of `rows` where there is one corpus."""

    run: str
    """Directory or URL of the run."""
    samples: int
    """Samples of the training split."""
    attempts: int
    """Number of attempts."""
    reach: int
    """The last step that counts: that of the newest complete checkpoint, or of the result."""
    excluded: int = 0
    """Samples of the training split that the run leaves out."""
    excluded_by: str = ""
    """The keys of the config that leave them out."""
    epochs: list[EpochAudit] = field(default_factory=list)
    """Result of each epoch."""
    lost_steps: list[int] = field(default_factory=list)
    """Counted steps that lack the record of a worker."""
    repeated_steps: list[int] = field(default_factory=list)
    """Steps with several records of one worker."""
    forged: list[str] = field(default_factory=list)
    """Lines that no worker can have written, a sentence each."""

    @property
    def header(self) -> Sequence[str]:
        """Column names of `rows`."""
        return ("corpus", "pass", *self.columns[1:]) if self._is_pool else self.columns

    @property
    def _is_pool(self) -> bool:
        return any(epoch.corpus for epoch in self.epochs)

    @property
    def ok(self) -> bool:
        """Whether each sample counted exactly once (or was skipped) in complete epochs, at most once in the last."""
        has_problems = self.lost_steps or self.repeated_steps or self.forged
        return not has_problems and all(epoch.ok for epoch in self.epochs)

    @property
    def skipped(self) -> int:
        """Number of samples left out, over all epochs."""
        return sum(len(epoch.skipped) for epoch in self.epochs)

    @property
    def problems(self) -> list[str]:
        """Problems of the ledger besides those of single samples, a sentence each."""
        problems = [
            f"{len(steps)} steps {what}: {_listed(steps)}"
            for steps, what in (
                (self.lost_steps, "have no complete record"),
                (self.repeated_steps, "are recorded more than once"),
            )
            if steps
        ]
        if trained := [name for epoch in self.epochs for name in epoch.trained_though_left_out]:
            problems.append(f"{len(trained)} samples were trained on although they are left out: {_listed(trained)}")
        if self.forged:
            problems.append(f"{len(self.forged)} lines are forged or damaged: {_listed(self.forged)}")
        return problems

    @property
    def summary(self) -> str:
        """The verdict as one line."""
        in_passes = f" in {self._passes}" if self._is_pool else ""
        skipped = f"{',' if in_passes else ''} except {self.skipped} skipped" if self.skipped else ""
        verdict = f"each sample counted exactly once{in_passes}{skipped}" if self.ok else "NOT exactly once"
        if self.ok and not self.epochs:
            verdict = "no step counts yet"
        left_out = f", {self.excluded} left out by {self.excluded_by or 'an earlier config'}" if self.excluded else ""
        counts = f"{self.samples} samples{left_out}, {self.reach} counted steps"
        return f"{verdict}: {counts}, {self.attempts} attempt{'s' if self.attempts != 1 else ''}"

    @property
    def _passes(self) -> str:
        """The passes of a pool in words."""
        whole = sum(epoch.complete for epoch in self.epochs)
        corpora, begun = len({epoch.corpus for epoch in self.epochs}), len(self.epochs) - whole
        rest = f", and at most once in {begun} that {'are' if begun > 1 else 'is'} not complete" if begun else ""
        return f"each of {whole} passes over {corpora} corpora{rest}"

    def rows(self) -> list[tuple[str, ...]]:
        """Return one row per epoch, or per corpus and pass, with the columns of `header`.

        Whole passes over a corpus that follow each other without anything to report share a row.
        """
        groups = groupby(enumerate(self.epochs), key=lambda pair: _alike(*pair))
        return [self._row([epoch for _, epoch in group]) for _, group in groups]

    def _row(self, epochs: Sequence[EpochAudit]) -> tuple[str, ...]:
        first = epochs[0]
        return (
            *((first.corpus,) if self._is_pool else ()),
            _span([epoch.epoch for epoch in epochs]),
            _span(sorted({epoch.steps for epoch in epochs})),
            str(first.seen) + (" each" if len(epochs) > 1 else ""),
            str(len(first.skipped)),
            _missing(first),
            str(len(first.twice)),
            str(len(first.elsewhere)),
            str(len(first.unknown)),
            first.verdict,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, with at most SHOWN examples of each problem."""
        return {
            "run": self.run,
            "ok": self.ok,
            "samples": self.samples,
            "excluded": self.excluded,
            "attempts": self.attempts,
            "reach": self.reach,
            "lost_steps": self.lost_steps[:SHOWN],
            "repeated_steps": self.repeated_steps[:SHOWN],
            "forged": self.forged[:SHOWN],
            "epochs": [
                {
                    **({"corpus": e.corpus, "pass": e.epoch} if e.corpus else {"epoch": e.epoch}),
                    "complete": e.complete,
                    "steps": e.steps,
                    "seen": e.seen,
                    "skipped": len(e.skipped),
                    "left_out": e.left_out,
                    "missing": e.missing,
                    "twice": len(e.twice),
                    "elsewhere": len(e.elsewhere),
                    "unknown": len(e.unknown),
                    "examples": (e.twice + e.elsewhere + e.unknown + e.trained_though_left_out + e.examples)[:SHOWN],
                }
                for e in self.epochs
            ],
        }


def _alike(place: int, epoch: EpochAudit) -> tuple[object, ...]:
    """Return a key that is equal for passes over a corpus that may share a row."""
    if epoch.corpus and epoch.complete and epoch.ok and not epoch.skipped:
        return epoch.corpus, epoch.seen, epoch.verdict
    return (place,)


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def _missing(epoch: EpochAudit) -> str:
    to_come = f"({epoch.to_come} to come)"
    if epoch.complete:
        return str(epoch.missing)
    return f"{epoch.missing} {to_come}" if epoch.missing else to_come


def _listed(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:SHOWN])) + (", ..." if len(items) > SHOWN else "")
