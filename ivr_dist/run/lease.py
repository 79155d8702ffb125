"""Driver lease: one driver per run, a numbered record in storage with a heartbeat (decision 014).

    RUN/driver/000003.json     the third driver: its process, and a counter that it increments every few seconds

1. A driver takes the next number by a conditional create, so of two that try at once only one succeeds. The holder is
   the driver with the highest number.
2. A new driver refuses to start while the holder's counter changes, which it observes itself: no clocks are compared.
3. A holder that was cut off from storage finds the higher number when it is back, and stops.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ivr_dist import storage
from ivr_dist.errors import CorruptDataError, IvrError, SupersededError, UserError
from ivr_dist.run.events import Console, Note
from ivr_dist.run.paths import DRIVER_NAME, RunPaths

_FIELDS = {"host": str, "pid": int, "process": str, "beat": int}
HEARTBEAT_S = 2.0
SILENT_S = 4 * HEARTBEAT_S
"""Seconds without a heartbeat after which the holder is considered dead."""


class StoppedWaiting(Exception):
    """The user requested a stop before anything had begun."""


class Lease:
    """The lease of this process."""

    error: SupersededError | None = None
    """Set once another driver has taken over."""


@contextmanager
def hold(run_url: str, console: Console, stop: threading.Event, silent_s: float = SILENT_S) -> Iterator[Lease]:
    """Hold the lease of a run until the context ends, renewing it in a thread.

    Args:
        run_url: The run's directory.
        console: Shows why the command waits.
        stop: Ends the wait when it is set; is set here when another driver takes over.
        silent_s: Seconds without a heartbeat after which the holder is considered dead.

    Raises:
        UserError: Another driver holds the lease.
        StoppedWaiting: `stop` was set while waiting for the holder's heartbeat.
    """
    number, last = _newest(run_url)
    if last is not None and not last.get("released"):
        _await_silence(run_url, number, last, console, stop, silent_s)
    # Delete a stale stop file; once the record exists, a stop file is meant for this driver.
    storage.delete_tree(RunPaths(run_url).stop_file)
    record = {
        "host": socket.gethostname(),
        "space": _process_space(),
        "pid": os.getpid(),
        "process": _process(os.getpid()),
        "token": uuid.uuid4().hex,
        "beat": 0,
    }
    own_number = number + 1
    if not storage.create_exclusive(RunPaths(run_url).driver(own_number), json.dumps(record).encode()):
        raise _busy(run_url, _newest(run_url)[1] or {})
    lease, closed = Lease(), threading.Event()
    thread = threading.Thread(
        target=_beat, args=(run_url, own_number, record, lease, closed, stop), name="ivr-lease", daemon=True
    )
    thread.start()
    try:
        yield lease
    finally:
        closed.set()
        thread.join()
        if lease.error is None:
            # Storage may be full by now: the run's result counts all the same, and a silent lease expires by itself.
            with suppress(IvrError):
                storage.write_text(RunPaths(run_url).driver(own_number), json.dumps({**record, "released": True}))
                for old in range(max(own_number - 3, 1), own_number):
                    storage.delete_tree(RunPaths(run_url).driver(old))


def holder(run_url: str) -> dict[str, Any] | None:
    """Read the record of the driver that holds the lease; None if there is none."""
    _, last = _newest(run_url)
    return None if last is None or last.get("released") else last


def _newest(run_url: str) -> tuple[int, dict[str, Any] | None]:
    numbers = DRIVER_NAME.list_numbers(RunPaths(run_url).drivers)
    if not numbers:
        return 0, None
    (newest,) = numbers[-1]
    return newest, _record(RunPaths(run_url).driver(newest))


def _record(url: str) -> dict[str, Any]:
    """Read a driver's record; a damaged one belongs to an unknown driver, which may still be renewing it."""
    try:
        record = storage.read_json(url)
    except CorruptDataError:
        record = None
    if isinstance(record, dict) and all(type(record.get(name)) is kind for name, kind in _FIELDS.items()):
        return record
    return {"host": "unknown", "pid": 0, "process": "", "beat": 0}


def _await_silence(
    run_url: str, number: int, last: dict[str, Any], console: Console, stop: threading.Event, silent_s: float
) -> None:
    """Return once the holder is dead; on the same machine and in the same container that needs no wait."""
    if last["host"] == socket.gethostname() and last.get("space") == _process_space() != "":
        if _process(last["pid"]) == last["process"]:
            raise _busy(run_url, last)
        return
    who = f"{last['host']}:{last['pid']}"
    console.emit(Note(f"waiting up to {silent_s:.0f} s to see whether driver {who} is still alive"))
    deadline = time.monotonic() + silent_s
    while time.monotonic() < deadline:
        if stop.wait(min(0.5, silent_s / 4)):
            raise StoppedWaiting
        now, seen = _newest(run_url)
        if now == number and (seen is None or seen.get("released")):
            return
        if now != number or seen is None or seen["beat"] != last["beat"]:
            raise _busy(run_url, seen or last)


def _beat(
    run_url: str, own_number: int, record: dict[str, Any], lease: Lease, closed: threading.Event, stop: threading.Event
) -> None:
    while not closed.wait(HEARTBEAT_S):
        try:
            number, last = _newest(run_url)
            if number > own_number and last is not None:
                lease.error = SupersededError(
                    f"driver {last['host']}:{last['pid']} has taken over this run",
                    where=run_url,
                    remedy="look at it with `ivr-dist status`",
                )
                stop.set()
                return
            record["beat"] += 1
            storage.write_text(RunPaths(run_url).driver(own_number), json.dumps(record))
        except IvrError:
            # Storage fails: a driver that takes over meanwhile is noticed at the next heartbeat that succeeds.
            continue


def _process_space() -> str:
    """Identify the boot and the container: the processes that this one can look up by number."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> str:
    """Return the start time of a process, which distinguishes reused ids; empty if unknown."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _busy(run_url: str, last: dict[str, Any]) -> UserError:
    return UserError(
        f"driver {last.get('host')}:{last.get('pid')} is running on this run",
        where=run_url,
        remedy="wait for it, stop it with `ivr-dist stop RUN`, or choose another run.dir",
    )
