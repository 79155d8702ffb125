"""What a run is doing or how it ended, from its storage alone: no cluster is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.errors import UserError
from ivr_dist.inspection.existing_run import read_record, read_result
from ivr_dist.planning.model_inputs import unused_rows
from ivr_dist.run import goodput
from ivr_dist.run.attempts import lineage, read_attempts
from ivr_dist.run.heartbeat import attempt_times, read_heartbeats
from ivr_dist.run.lease import holder
from ivr_dist.units import format_duration

SILENT_S = 30.0
"""A run whose last sign of life is older, and that did not end by itself, was cut off or is cut off from storage."""

_ENDINGS = {
    "finished": "finished",
    "early": "finished: validation did not improve any more",
    "asked": "stopped by a signal; the same command continues it",
    "stop file": "stopped by the stop file; the same command continues it",
    "rollback": "going back to an older checkpoint",
}


def status(run_url: str, now: float | None = None) -> dict[str, Any]:
    """What storage tells of a run.

    Args:
        run_url: The run's directory.
        now: Unix time; None for this moment.

    Returns:
        For machines: `run`, `state` (training, starting, silent, failed or one of how it ended), `step`, `total_steps`,
        `attempts`, `world`, `stage`, `host`, `seen_s` (seconds since the last sign of life), `checkpoint` (the newest
        complete one), `driver`, `goodput` (seconds by part), `loss`, `samples_per_s`, `modalities` (that are read),
        `not_used` (why others are not), `metrics`.

    Raises:
        UserError: There is no run.
    """
    attempts = read_attempts(run_url)
    driver = holder(run_url)
    if not attempts and driver is None:
        raise UserError(
            "no run here", where=storage.display(run_url), remedy="give the run.dir of a run that has started"
        )
    pulses = read_heartbeats(run_url)
    last = pulses.get(max(pulses), {}) if pulses else {}
    spans = lineage(attempts)
    first = spans[0].attempt if spans else 1
    result, known = read_result(run_url), read_record(run_url)
    seen_s = (time.time() if now is None else now) - last["seen"] if last else None
    return {
        "run": storage.display(run_url),
        "state": _state(last, driver, seen_s, bool(attempts)),
        "step": last.get("step"),
        "total_steps": last.get("total_steps"),
        "epoch": last.get("epoch"),
        "loss": last.get("loss"),
        "samples_per_s": last.get("samples_per_s"),
        "attempts": len(attempts),
        "world": last.get("world"),
        "stage": last.get("stage"),
        "host": last.get("host"),
        "pid": last.get("pid"),
        "seen_s": seen_s,
        "checkpoint": _newest(run_url, spans),
        "driver": None if driver is None else f"{driver['host']}:{driver['pid']}",
        "goodput": goodput.account(attempt_times(pulses, first)),
        "modalities": known.get("modalities", []),
        "not_used": known.get("not_used", {}),
        "metrics": result["metrics"] if result else {},
    }


def _state(last: Mapping[str, Any], driver: Mapping[str, Any] | None, seen_s: float | None, begun: bool) -> str:
    if not last or seen_s is None:
        return "starting" if driver is not None or not begun else "silent"
    if last["ended"]:
        return str(last["how"])
    if seen_s > SILENT_S:
        return "silent"
    return "training" if last.get("loss") is not None else "starting"


def _newest(run_url: str, spans: Any) -> str | None:
    """The newest checkpoint all of whose parts and files are there; their bytes are not read."""
    in_lineage = store.in_lineage(store.names(run_url), spans)
    return next(
        (storage.display(name.url(run_url)) for name in in_lineage if store.is_complete(name.url(run_url))), None
    )


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The table for people."""
    state = found["state"]
    text = _ENDINGS.get(state, state)
    if state == "silent":
        text = "no sign of life: it was cut off, or is about to be started again; the same command continues it"
    lines = [("run", found["run"]), ("state", text)]
    if found["modalities"]:
        lines.append(("modalities", ", ".join(found["modalities"])))
    lines += unused_rows(found["not_used"])
    if found["step"] is not None:
        epoch = f", epoch {found['epoch']:.2f}" if found["epoch"] is not None else ""
        lines.append(("step", f"{found['step']} of {found['total_steps']}{epoch}"))
    if found["loss"] is not None:
        lines.append(("loss", f"{found['loss']:.4f}, at {found['samples_per_s']:,.0f} samples/s"))
    if found["world"] is not None:
        lines.append(("attempt", f"{found['attempts']}, {found['world']} workers, ZeRO {found['stage']}"))
        lines.append(("worker 0", f"{found['host']}:{found['pid']}"))
    if found["seen_s"] is not None:
        lines.append(("last sign of life", f"{format_duration(max(found['seen_s'], 0.0))} ago"))
    lines.append(("driver", found["driver"] or "none"))
    lines.append(("newest checkpoint", found["checkpoint"] or "none is complete"))
    return lines + goodput.rows(found["goodput"])
