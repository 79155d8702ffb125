"""Status of a run, read from its storage alone: progress, heartbeat, newest checkpoint, driver, goodput."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.errors import UserError
from ivr_dist.inspection.existing_run import read_record, read_result
from ivr_dist.planning.model_inputs import unused_rows
from ivr_dist.run import goodput
from ivr_dist.run.attempts import Span, lineage, read_attempts
from ivr_dist.run.heartbeat import attempt_times, read_heartbeats
from ivr_dist.run.lease import holder
from ivr_dist.run.paths import SEED_RUN_NAME, RunPaths
from ivr_dist.units import format_duration

SILENT_S = 30.0
"""Age of the last heartbeat from which on a run that has not ended counts as silent: it was killed, or cannot reach its
storage."""

_CORPORA_SHOWN = 3
_STATES = {
    "early": "finished: validation stopped improving",
    "asked": "stopped by a signal; the same command continues it",
    "stop file": "stopped by the stop file; the same command continues it",
    "rollback": "going back to an older checkpoint",
    "silent": "no heartbeat: it was killed, or is about to be restarted; the same command continues it",
}


@dataclass(frozen=True)
class RunStatus:
    """What a run is doing, or how it ended. Fields are None where its storage has no such record."""

    run: str
    """Directory or URL of the run."""
    state: str
    """training, starting, silent, failed, or how it ended: finished, early, asked, stop file or rollback."""
    step: int | None
    """Optimizer steps completed."""
    total_steps: int | None
    """Optimizer steps of the whole run."""
    epoch: float | None
    """Epochs completed, with the fraction of the running one."""
    passes: Mapping[str, float]
    """Passes so far over each corpus of a pool; empty where there is one corpus."""
    loss: float | None
    """Loss of the latest step that was reported."""
    samples_per_s: float | None
    """Throughput, over all workers."""
    attempts: int
    """Number of attempts."""
    world: int | None
    """Number of workers."""
    stage: int | None
    """ZeRO stage."""
    host: str | None
    """Host of worker 0."""
    pid: int | None
    """Process id of worker 0."""
    seen_s: float | None
    """Seconds since the last heartbeat."""
    checkpoint: str | None
    """The newest complete checkpoint."""
    driver: str | None
    """Holder of the driver lease, as host:pid."""
    goodput: Mapping[str, float]
    """Seconds by kind of activity, over all attempts."""
    modalities: Sequence[str]
    """Modalities that the model reads."""
    not_used: Mapping[str, str]
    """Reasons why the other modalities are not read."""
    init: Mapping[str, Any]
    """Where the weights come from, with `train.init_from`: checkpoint, sha256, what was taken, new and left."""
    metrics: Mapping[str, Mapping[str, float | None]]
    """Metrics by split; empty until the run has finished."""

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of the table that `ivr-dist status` prints."""
        rows = [("run", self.run), ("state", _STATES.get(self.state, self.state))]
        if self.modalities:
            rows.append(("modalities", ", ".join(self.modalities)))
        rows += unused_rows(self.not_used)
        if self.init:
            parts = [f"{self.init.get('taken')} tensors of {self.init.get('checkpoint')}"]
            changed = [(word, self.init[word]) for word in ("new", "left") if self.init.get(word)]
            parts += [f"{word}: {', '.join(map(str, names))}" for word, names in changed]
            rows.append(("weights from", "; ".join(parts)))
        if self.step is not None:
            epoch = "" if self.epoch is None else f", epoch {self.epoch:.2f}"
            rows.append(("step", f"{self.step} of {self.total_steps}{epoch}"))
        if self.passes:
            shown = [f"{name} {count:.2f}" for name, count in list(self.passes.items())[:_CORPORA_SHOWN]]
            more = ", ..." if len(self.passes) > _CORPORA_SHOWN else ""
            rows.append(("passes", f"{', '.join(shown)}{more}"))
        if self.loss is not None:
            rows.append(("loss", f"{self.loss:.4f}, at {self.samples_per_s:,.0f} samples/s"))
        if self.world is not None:
            rows.append(("attempt", f"{self.attempts}, {self.world} workers, ZeRO {self.stage}"))
            rows.append(("worker 0", f"{self.host}:{self.pid}"))
        if self.seen_s is not None:
            rows.append(("last heartbeat", f"{format_duration(max(self.seen_s, 0.0))} ago"))
        rows.append(("driver", self.driver or "none"))
        rows.append(("newest checkpoint", self.checkpoint or "none is complete"))
        return rows + goodput.rows(self.goodput)


def status(run_url: str, now: float | None = None) -> RunStatus:
    """Read the status of a run.

    Args:
        run_url: Directory or URL of the run.
        now: Unix time to compare heartbeats with; None: the current time.

    Raises:
        UserError: There is no run.
        CorruptDataError: A record of the run is damaged.
    """
    attempts = read_attempts(run_url)
    driver = holder(run_url)
    if not attempts and driver is None:
        raise no_run(run_url)
    heartbeats = read_heartbeats(run_url)
    last = heartbeats.get(max(heartbeats), {}) if heartbeats else {}
    spans = lineage(attempts)
    first_attempt = spans[0].attempt if spans else 1
    result, record = read_result(run_url), read_record(run_url)
    seen_s = (time.time() if now is None else now) - last["seen"] if last else None
    return RunStatus(
        run=storage.display(run_url),
        state=_state(last, driver, seen_s, bool(attempts)),
        step=last.get("step"),
        total_steps=last.get("total_steps"),
        epoch=last.get("epoch"),
        passes=last.get("passes", {}),
        loss=last.get("loss"),
        samples_per_s=last.get("samples_per_s"),
        attempts=len(attempts),
        world=last.get("world"),
        stage=last.get("stage"),
        host=last.get("host"),
        pid=last.get("pid"),
        seen_s=seen_s,
        checkpoint=_newest_checkpoint(run_url, spans),
        driver=None if driver is None else f"{driver['host']}:{driver['pid']}",
        goodput=goodput.account(attempt_times(heartbeats, first_attempt)),
        modalities=record.get("modalities", []),
        init=record.get("init", {}),
        not_used=record.get("not_used", {}),
        metrics=result["metrics"] if result else {},
    )


def no_run(run_url: str) -> UserError:
    """Return the error for a directory that holds no run, or one run for each of several seeds."""
    where = storage.display(run_url)
    seeds = SEED_RUN_NAME.list_numbers(run_url)
    if seeds:
        first = storage.display(RunPaths(run_url).seed_run(seeds[0][0]))
        what = "no run here, but runs of single seeds below it"
        return UserError(what, where=where, remedy=f"give one of them, such as {first}")
    return UserError("no run here", where=where, remedy="give the run.dir of a run that has started")


def _state(last: Mapping[str, Any], driver: Mapping[str, Any] | None, seen_s: float | None, has_begun: bool) -> str:
    if not last or seen_s is None:
        return "starting" if driver is not None or not has_begun else "silent"
    if last["ended"]:
        return str(last["how"])
    if seen_s > SILENT_S:
        return "silent"
    return "training" if last.get("loss") is not None else "starting"


def _newest_checkpoint(run_url: str, spans: Sequence[Span]) -> str | None:
    """Return the newest checkpoint whose parts and files all exist; their contents are not read."""
    in_lineage = store.in_lineage(store.names(run_url), spans)
    return next(
        (storage.display(name.url(run_url)) for name in in_lineage if store.is_complete(name.url(run_url))), None
    )
