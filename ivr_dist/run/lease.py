"""One driver at a time: who drives a run says so in storage, and goes on saying it.

    RUN/driver/0003.json     the third driver: who it is, and a beat that it renews every few seconds

A number is taken by a conditional create, so of two drivers that want to take over only one does; the holder is the
one with the highest number. A newcomer refuses to start while the holder's beat changes, which it watches itself: no
clocks are compared. A holder that was cut off finds out by the higher number, and stops.
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
BEAT_S = 2.0
SILENT_S = 4 * BEAT_S
"""A holder whose beat has not changed for so long is taken for dead."""


class StoppedWaiting(Exception):
    """The user wants to stop, and nothing had begun."""


class Lease:
    """The lease of this process."""

    error: SupersededError | None = None
    """Set once another driver has taken over."""


@contextmanager
def hold(run_url: str, console: Console, stop: threading.Event, silent_s: float = SILENT_S) -> Iterator[Lease]:
    """Drive a run: take it if nobody drives it, and keep it until the context ends.

    Args:
        run_url: The run's directory.
        console: Shows what is waited for.
        stop: Ends the wait where it is set; set here when another driver takes over.
        silent_s: Seconds without a beat after which the holder is taken for dead.

    Raises:
        UserError: Another driver is at work.
        StoppedWaiting: `stop` was set before it was known whether one is.
    """
    number, last = _newest(run_url)
    if last is not None and not last.get("released"):
        _await_silence(run_url, number, last, console, stop, silent_s)
    # A wish of earlier times; from the record on, a wish to stop is meant for this driver.
    storage.delete_tree(RunPaths(run_url).stop_file)
    record = {
        "host": socket.gethostname(),
        "space": _process_space(),
        "pid": os.getpid(),
        "process": _process(os.getpid()),
        "token": uuid.uuid4().hex,
        "beat": 0,
    }
    mine = number + 1
    if not storage.create_exclusive(RunPaths(run_url).driver(mine), json.dumps(record).encode()):
        raise _busy(run_url, _newest(run_url)[1] or {})
    held, closed = Lease(), threading.Event()
    thread = threading.Thread(
        target=_beat, args=(run_url, mine, record, held, closed, stop), name="ivr-lease", daemon=True
    )
    thread.start()
    try:
        yield held
    finally:
        closed.set()
        thread.join()
        if held.error is None:
            # Storage may be full by now: what the run has done counts all the same, and silence is a release as well.
            with suppress(IvrError):
                storage.write_text(RunPaths(run_url).driver(mine), json.dumps({**record, "released": True}))
                for old in range(max(mine - 3, 1), mine):
                    storage.delete_tree(RunPaths(run_url).driver(old))


def holder(run_url: str) -> dict[str, Any] | None:
    """The newest driver's record; None if nobody drives the run, as far as storage tells."""
    _, last = _newest(run_url)
    return None if last is None or last.get("released") else last


def _newest(run_url: str) -> tuple[int, dict[str, Any] | None]:
    numbers = DRIVER_NAME.found(RunPaths(run_url).drivers)
    if not numbers:
        return 0, None
    (newest,) = numbers[-1]
    return newest, _record(RunPaths(run_url).driver(newest))


def _record(url: str) -> dict[str, Any]:
    """A driver's record. What is damaged is nobody's who is known: whoever renews it lives, all the same."""
    try:
        found = storage.read_json(url)
    except CorruptDataError:
        found = None
    if isinstance(found, dict) and all(type(found.get(name)) is kind for name, kind in _FIELDS.items()):
        return found
    return {"host": "unknown", "pid": 0, "process": "", "beat": 0}


def _await_silence(
    run_url: str, number: int, last: dict[str, Any], console: Console, stop: threading.Event, silent_s: float
) -> None:
    """Return when the holder is dead; among the processes of this one that is known at once."""
    if last["host"] == socket.gethostname() and last.get("space") == _process_space() != "":
        if _process(last["pid"]) == last["process"]:
            raise _busy(run_url, last)
        return
    who = f"{last['host']}:{last['pid']}"
    console.emit(Note(f"waiting up to {silent_s:.0f} s to see whether driver {who} still lives"))
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
    run_url: str, mine: int, record: dict[str, Any], held: Lease, closed: threading.Event, stop: threading.Event
) -> None:
    while not closed.wait(BEAT_S):
        try:
            number, last = _newest(run_url)
            if number > mine and last is not None:
                held.error = SupersededError(
                    f"driver {last['host']}:{last['pid']} has taken this run over",
                    where=run_url,
                    remedy="look at it with `ivr-dist status`",
                )
                stop.set()
                return
            record["beat"] += 1
            storage.write_text(RunPaths(run_url).driver(mine), json.dumps(record))
        except IvrError:
            # Storage fails: whoever takes over meanwhile is found at the next beat that succeeds.
            continue


def _process_space() -> str:
    """Names the processes that this one can look up by number: those of one boot and one container."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> str:
    """Tells a process from a later one of the same number; empty if there is none, or no /proc to ask."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _busy(run_url: str, last: dict[str, Any]) -> UserError:
    return UserError(
        f"driver {last.get('host')}:{last.get('pid')} is at work on this run",
        where=run_url,
        remedy="wait for it, stop it with `ivr-dist stop RUN`, or choose another run.dir",
    )
