"""Run results: the result for Python callers, and the loss curve from the history ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ivr_dist import storage
from ivr_dist.run.ledger import read_lineage
from ivr_dist.run.paths import HISTORY


@dataclass(frozen=True)
class Result:
    """Result of a training run.

    `loss_curve` is read from the run's history ledger on access.
    """

    run: str
    """Path or URL of the run directory."""
    status: str
    """`finished`; `early`: validation stopped improving; `stopped`: the stop file ended it, and training continues with
    the next call."""
    metrics: Mapping[str, Mapping[str, float | None]]
    """By split (`valid`, `test`) and metric (`mosi/mae`); None where a metric is not defined. Empty if `stopped`."""
    checkpoint: str | None
    """Path or URL of the checkpoint that was scored; of the newest complete one if `stopped`, None without one."""
    steps: int | None
    """Optimizer steps completed."""
    total_steps: int | None
    """Optimizer steps of the whole run."""
    attempts: int
    """Times that workers were started for the run."""
    modalities: tuple[str, ...] = ()
    """Modalities that the model reads."""
    excluded: Mapping[str, int] = field(default_factory=dict)
    """By split, of those that it scored: samples that the run leaves out; empty where there are none."""
    trained: bool = field(default=True, compare=False)
    """False if the run was complete already, so that nothing was trained."""

    @property
    def loss_curve(self) -> list[tuple[int, float]]:
        """`(step, loss)` of every step that counts, over all attempts, in the order of steps."""
        return loss_curve(self.run)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], *, trained: bool = True) -> Result:
        """Build the result from the content of `result.json`, as `inspection.existing_run.read_result` returns it."""
        return cls(
            run=record["run"],
            status=record["status"],
            metrics=record["metrics"],
            checkpoint=record["checkpoint"],
            steps=record["steps"],
            total_steps=record["total_steps"],
            attempts=record["attempts"],
            modalities=tuple(record.get("modalities", ())),
            excluded=record.get("excluded", {}),
            trained=trained,
        )

    def to_record(self) -> dict[str, Any]:
        """The fields of `result.json`, without passwords in URLs."""
        names = ("run", "status", "checkpoint", "steps", "total_steps", "attempts", "modalities", "metrics")
        record = {name: getattr(self, name) for name in names} | {
            "run": storage.display(self.run),
            "checkpoint": None if self.checkpoint is None else storage.display(self.checkpoint),
            "modalities": list(self.modalities),
        }
        return record | ({"excluded": dict(self.excluded)} if self.excluded else {})


def loss_curve(run_url: str) -> list[tuple[int, float]]:
    """`(step, loss)` of every step that counts, over all attempts.

    Raises:
        CorruptDataError: A line of the history ledger is damaged.
    """
    records = (record for _, _, record in read_lineage(run_url, HISTORY))
    return sorted((record["step"], record["loss"]) for record in records if "loss" in record)
