"""A training run as a Python object: status, history, checkpoints, result and audit, read from its storage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.config import Config
from ivr_dist.errors import UserError
from ivr_dist.inspection import audit, status
from ivr_dist.inspection.audit_report import AuditReport
from ivr_dist.inspection.existing_run import read_record, read_result, recorded_config
from ivr_dist.inspection.status import RunStatus
from ivr_dist.run.attempts import lineage, read_attempts
from ivr_dist.run.ledger import read_lineage
from ivr_dist.run.paths import HISTORY
from ivr_dist.run.results import Result, loss_curve


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run."""

    name: str
    """`step-00001200.a02`."""
    url: str
    """Absolute path or URL."""
    step: int
    """Optimizer steps completed."""
    attempt: int
    """The attempt that wrote it."""
    complete: bool
    """Whether all its parts and files are there; their bytes are not read."""


class Run:
    """A run directory; made by `open_run`. Nothing is cached but the config: each call reads storage again.

    Args:
        url: Path or URL of the run directory.

    Raises:
        UserError: No run has started there.
        CorruptDataError: A record of the run is damaged.
    """

    def __init__(self, url: str) -> None:
        self.url = storage.absolute(url)
        """Absolute path or URL of the run directory."""
        self.status()

    def __repr__(self) -> str:
        return f"<run {storage.display(self.url)}>"

    @cached_property
    def config(self) -> Config:
        """The config of the newest attempt.

        Raises:
            CorruptDataError: The run's record is missing or damaged.
        """
        return recorded_config(self.url, read_record(self.url))

    def status(self) -> RunStatus:
        """What the run is doing or how it ended, as `ivr-dist status` prints it.

        Raises:
            UserError: There is no run any more.
            CorruptDataError: A record of the run is damaged.
        """
        return status.status(self.url)

    def history(self) -> list[dict[str, Any]]:
        """Records of the history ledger in the order of steps, over all attempts; superseded steps are left out.

        Returns:
            `step`, `loss`, `terms` (each loss term) and `grad_norm` for a training step; `step`, `split` and `metrics`
            for an evaluation.

        Raises:
            CorruptDataError: A line of the ledger is damaged.
        """
        return sorted((record for _, _, record in read_lineage(self.url, HISTORY)), key=lambda record: record["step"])

    def loss_curve(self) -> list[tuple[int, float]]:
        """`(step, loss)` of every step that counts, over all attempts.

        Raises:
            CorruptDataError: A line of the ledger is damaged.
        """
        return loss_curve(self.url)

    def checkpoints(self) -> list[Checkpoint]:
        """Checkpoints from which the run could continue, oldest first; superseded ones are left out.

        Raises:
            CorruptDataError: An attempt record is damaged.
        """
        names = store.in_lineage(store.names(self.url), lineage(read_attempts(self.url)))
        return [
            Checkpoint(str(name), url, name.step, name.attempt, store.is_complete(url))
            for name in reversed(names)
            for url in [name.url(self.url)]
        ]

    def result(self) -> Result | None:
        """What the run achieved; None before its end.

        Raises:
            CorruptDataError: The record of the result is damaged.
        """
        record = read_result(self.url)
        return None if record is None else Result.from_record(record, trained=False)

    def audit(self) -> AuditReport:
        """Compare the audit ledger with the data: was each sample counted exactly once in every epoch?

        Raises:
            UserError: The run was trained with `run.audit=false`, or its data is another by now.
            CorruptDataError: The records that the audit needs are damaged.
        """
        if not read_attempts(self.url):
            raise UserError("no attempt of the run has begun", where=storage.display(self.url))
        return audit.audit(self.url)
