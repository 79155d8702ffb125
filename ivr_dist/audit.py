"""Proof, from a run's own ledger, that each sample counted exactly once an epoch over all attempts."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from ivr_dist import storage
from ivr_dist.attempts import lineage, read_attempts
from ivr_dist.config_file import from_dict
from ivr_dist.data.index import load as load_index
from ivr_dist.data.manifest import Manifest
from ivr_dist.errors import UserError
from ivr_dist.ledger import AUDIT, read_counting

_SHOWN = 5


@dataclass
class EpochAudit:
    """What one epoch's records say."""

    epoch: int
    steps: int = 0
    seen: int = 0
    skipped: list[str] = field(default_factory=list)
    """Could not be read, and `data.on_error` is skip: their slots were left empty."""
    missing: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def ok(self) -> bool:
        """Nothing twice, nothing foreign, and nothing missing if the epoch was trained to its end."""
        return not self.twice and not self.unknown and not (self.complete and self.missing)

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
    epochs: list[EpochAudit]
    lost_steps: list[int]
    """Steps without a record of every rank."""

    @property
    def ok(self) -> bool:
        """Each sample counted exactly once, or was skipped, in every complete epoch, and at most once in the last."""
        return not self.lost_steps and bool(self.epochs) and all(epoch.ok for epoch in self.epochs)

    @property
    def skipped(self) -> int:
        """Samples that could not be read, over all epochs."""
        return sum(len(epoch.skipped) for epoch in self.epochs)

    def rows(self) -> list[tuple[str, ...]]:
        """One row an epoch: epoch, steps, seen, skipped, missing, twice, unknown, verdict."""
        return [
            (
                str(epoch.epoch),
                str(epoch.steps),
                str(epoch.seen),
                str(len(epoch.skipped)),
                str(len(epoch.missing)) if epoch.complete else f"({len(epoch.missing)} to come)",
                str(len(epoch.twice)),
                str(len(epoch.unknown)),
                epoch.verdict,
            )
            for epoch in self.epochs
        ]

    def to_json(self) -> dict[str, Any]:
        """The verdict for machines; at most a few example ids of each fault."""
        return {
            "run": self.run,
            "ok": self.ok,
            "samples": self.samples,
            "attempts": self.attempts,
            "lost_steps": self.lost_steps[:_SHOWN],
            "epochs": [
                {
                    "epoch": e.epoch,
                    "complete": e.complete,
                    "steps": e.steps,
                    "seen": e.seen,
                    "skipped": len(e.skipped),
                    "missing": len(e.missing),
                    "twice": len(e.twice),
                    "unknown": len(e.unknown),
                    "examples": (e.twice + e.unknown + (e.missing if e.complete else []))[:_SHOWN],
                }
                for e in self.epochs
            ],
        }


def audit(run_url: str) -> AuditReport:
    """Compare the ids of every step that counts with the training manifest.

    Raises:
        UserError: There is no run, or it was trained with `run.audit=false`.
    """
    attempts = read_attempts(run_url)
    if not attempts or not storage.exists(storage.join(run_url, "run.json")):
        raise UserError("no run here", where=run_url, remedy="give the run.dir of a run that has started")
    config = from_dict(storage.read_json(storage.join(run_url, "run.json"))["config"])
    expected = _manifest_keys(config.data.train)
    worlds = {attempt.number: attempt.world for attempt in attempts}
    steps_per_epoch = attempts[-1].steps_per_epoch

    seen: dict[int, Counter[str]] = defaultdict(Counter)
    skipped: dict[int, Counter[str]] = defaultdict(Counter)
    steps: dict[int, set[int]] = defaultdict(set)
    ranks: Counter[int] = Counter()
    attempt_of: dict[int, int] = {}
    for attempt, _, record in read_counting(run_url, AUDIT):
        seen[record["epoch"]].update(record["ids"])
        skipped[record["epoch"]].update(record.get("skipped", ()))
        steps[record["epoch"]].add(record["step"])
        ranks[record["step"]] += 1
        attempt_of[record["step"]] = attempt
    if not seen:
        raise UserError("the run has no audit ledger", where=run_url, remedy="train with run.audit=true")

    spans = lineage(attempts)
    last_step = max(max(ranks), *(span.last or 0 for span in spans))
    lost = [s for s in range(spans[0].first, last_step + 1) if s not in ranks or ranks[s] != worlds[attempt_of[s]]]
    epochs = [
        _audit_epoch(epoch, seen[epoch], skipped[epoch], len(steps[epoch]), steps_per_epoch, expected)
        for epoch in sorted(seen)
    ]
    return AuditReport(run_url, len(expected), len(attempts), epochs, lost)


def _audit_epoch(
    epoch: int,
    seen: Counter[str],
    skipped: Counter[str],
    steps: int,
    steps_per_epoch: int,
    expected: frozenset[str],
) -> EpochAudit:
    once = seen + skipped
    return EpochAudit(
        epoch=epoch,
        steps=steps,
        seen=seen.total(),
        skipped=sorted(skipped),
        missing=sorted(expected - once.keys()),
        twice=sorted(key for key, count in once.items() if count > 1),
        unknown=sorted(once.keys() - expected),
        complete=steps == steps_per_epoch,
    )


def _manifest_keys(split_url: str) -> frozenset[str]:
    manifest = Manifest.load(split_url)
    keys: set[str] = set()
    for shard in manifest.shards:
        keys.update(str(key) for key in load_index(storage.join(split_url, shard.index.name)).keys)
    return frozenset(keys)
