"""The command's end of a run on Ray: it starts a session in a process of its own, and another one if Ray is lost.

Ray takes over the process that calls `ray.init`: it replaces signal handlers, aborts three seconds after SIGTERM, and
ends the process when its control service is gone. So the command never imports it. A session (`ray_session`) connects
to Ray in a child process with signals blocked; the command keeps signals, lease and terminal to itself, passes a wish
to stop on, and ends whatever the session leaves behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any, Literal

from ivr_dist import storage
from ivr_dist.config import Config
from ivr_dist.config.loading import to_dict
from ivr_dist.display.console import LocalConsole
from ivr_dist.errors import IvrError, UserError, WorkerError
from ivr_dist.run.attempts import read_attempts
from ivr_dist.run.events import Phase
from ivr_dist.run.paths import RunPaths
from ivr_dist.runtime import scratch_folders

MARK = "IVR_DIST_SESSION"
"""Variable of the environment by which the processes of a session on this machine are known."""

_BOOT = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from ivr_dist.ray_session import main
main(int(sys.argv[2]))
"""
_POLL_S = 0.25
_CONNECT_S = {True: 60.0, False: 180.0}
"""Seconds to connect to a named cluster whose head answers, and to start one here. Ray's own limit is 15 minutes."""
_HEAD_S = 8.0
"""Seconds in which the head of a named cluster must answer, unless it has answered this run before."""
_LEAVE_S = 10.0
_MOST_UNSTARTED = 3
"""Times in a row that a cluster of our own may fail to start."""
_STOP_FILE_S = 1.0


@dataclass(frozen=True)
class Job:
    """What a session runs; sent to its process."""

    config: dict[str, Any]
    debug: bool
    started: float
    """Unix time when the command was given."""
    attempts_before: int
    """Attempts of the run when the command was given."""
    failures: int
    """Failures that the run has survived so far."""
    address: str
    """Of the Ray cluster; empty for one that the session starts."""
    scratch: str
    """Folder for such a cluster."""
    patience_s: float
    """Seconds in which the head of a named cluster must take a connection."""


@dataclass(frozen=True)
class Outcome:
    """How a session ended."""

    kind: Literal["done", "failed", "unstarted", "lost", "stopped"]
    """unstarted: there was no cluster; lost: Ray, or the session's process, is gone; stopped: by the stop file or a
    signal, before any worker ran."""
    error: IvrError | None = None
    what: str = ""
    """What was lost."""
    failures: int = 0
    """Failures of workers that were survived in it."""


def run_on_ray(config: Config, console: LocalConsole, debug: bool, started: float) -> None:
    """Run the workers to their end, on the cluster that `RAY_ADDRESS` names or on one started here.

    Args:
        config: The run's config.
        console: Prints the workers' events; its `stop` asks them to end after a checkpoint.
        debug: Show what Ray and the workers print.
        started: Unix time when the command was given.

    Raises:
        IvrError: The error that ended the run.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    attempts_before = len(read_attempts(storage.absolute(config.run.dir)))
    job = Job(to_dict(config), debug, started, attempts_before, 0, address, "", _HEAD_S)
    unstarted = 0
    while True:
        with _scratch(address) as folder:
            job = replace(job, scratch=folder)
            outcome = _run_session(job, console, RunPaths(storage.absolute(config.run.dir)).stop_file)
        if outcome.kind in ("done", "stopped"):
            return
        unstarted = unstarted + 1 if outcome.kind == "unstarted" else 0
        # That a cluster of our own does not start may pass: one of its processes was killed, the machine was busy.
        passing = not address and 0 < unstarted < _MOST_UNSTARTED
        if outcome.error is not None and not passing:
            # After a session that was lost it is no mistake of the user's that there is no cluster any more.
            raise _cluster_lost(outcome.error) if unstarted and job.failures else outcome.error
        what = outcome.what if outcome.error is None else outcome.error.what
        if console.stop.is_set():
            _say(console, f"{what}; the newest complete checkpoint stands")
            return
        if passing:
            _say(console, f"{what}; trying again")
            continue
        failures = job.failures + outcome.failures + 1
        if 0 <= config.run.max_failures < failures:
            raise WorkerError(
                f"{outcome.what}, after {failures - 1} other failures",
                where=f"run.max_failures={config.run.max_failures}",
                remedy="the same command continues from the last checkpoint; --debug shows what Ray printed",
            )
        allowed = "" if config.run.max_failures < 0 else f" of {config.run.max_failures}"
        _say(console, f"{outcome.what} (failure {failures}{allowed}); all workers are started again")
        # The head of a cluster that was there a moment ago may be starting again.
        job = replace(job, failures=failures, patience_s=max(_HEAD_S, config.run.wait_s))


def _cluster_lost(error: IvrError) -> WorkerError:
    return WorkerError(error.what, where=error.where, remedy=f"{error.remedy}; the same command continues this run")


def _say(console: LocalConsole, text: str) -> None:
    console.emit(Phase(text))


@contextmanager
def _scratch(address: str) -> Iterator[str]:
    """A folder for a cluster of our own; none for a named one."""
    folder = "" if address else scratch_folders.ray_folder()
    try:
        yield folder
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _run_session(job: Job, console: LocalConsole, stop_file: str) -> Outcome:
    session = _Session(job)
    leaves = False
    try:
        outcome = _follow(session, job, console, stop_file)
        leaves = outcome.kind in ("done", "failed", "unstarted")
        return outcome
    finally:
        session.end(leaves)


def _follow(session: _Session, job: Job, console: LocalConsole, stop_file: str) -> Outcome:
    """Print what the session says until it ends, and pass on the wish to stop."""
    connected = workers = stopping = False
    failures = 0
    deadline = time.monotonic() + _CONNECT_S[bool(job.address)] + (job.patience_s if job.address else 0.0)
    looked = time.monotonic()
    while True:
        if console.stop.is_set() and not stopping:
            stopping = True
            session.stop()
        if not workers:
            if not connected and stopping:
                return Outcome("stopped")
            if not connected and time.monotonic() > deadline:
                return Outcome("unstarted", error=no_cluster(job.address, "it does not answer"))
            if time.monotonic() - looked >= _STOP_FILE_S:
                looked = time.monotonic()
                if _exists(stop_file):
                    console.how = "stop file"
                    return Outcome("stopped")
        message = session.receive(_POLL_S)
        if message is None:
            continue
        kind, value = message
        if kind == "event":
            failures += value.failures if isinstance(value, Phase) else 0
            console.emit(value)
        elif kind == "connected":
            connected = True
        elif kind == "workers":
            workers = True
        elif kind == "lost":
            return Outcome("lost", what=value, failures=failures)
        else:
            return Outcome(kind, error=value)


def _exists(url: str) -> bool:
    with suppress(IvrError):
        return storage.exists(url)
    return False


def no_cluster(address: str, why: str) -> UserError:
    """The error of a cluster that could not be reached or started."""
    if address:
        return UserError(
            f"no Ray cluster could be reached: {why}",
            where=f"RAY_ADDRESS={address}",
            remedy="check the address and that the cluster is up, or unset RAY_ADDRESS to use this machine alone",
        )
    return UserError(
        f"no Ray cluster could be started on this machine: {why}",
        remedy="run again with --debug to see what Ray prints",
    )


class _Session:
    """The process of a session, seen from the command."""

    def __init__(self, job: Job) -> None:
        self._mark = uuid.uuid4().hex
        self._connection: Connection[Any, Any]
        self._connection, there = Pipe()
        # What Ray prints is for those who ask for it: it is pages long where one line says what happened.
        sink: IO[Any] | int = sys.stderr.fileno() if job.debug else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(there.fileno())],
            env={**os.environ, MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=[there.fileno()],
            # A terminal's Ctrl-C and a scheduler's signal to the command's process group are for the command alone.
            start_new_session=True,
        )
        there.close()
        with suppress(OSError):
            self._connection.send(job)

    def receive(self, timeout_s: float) -> tuple[Any, Any] | None:
        """The next message, see `ray_session`; None if there is none for so long; `lost` once the process is gone."""
        try:
            if self._connection.poll(timeout_s):
                message: tuple[Any, Any] = self._connection.recv()
                return message
        except (EOFError, OSError):
            return "lost", f"the process that drives Ray has ended ({_ending(self._process.wait())})"
        return None

    def stop(self) -> None:
        """Tell it to end after a checkpoint."""
        with suppress(OSError):
            self._connection.send("stop")

    def end(self, leaves: bool) -> None:
        """End it and all that it leaves on this machine; if it `leaves` by itself, give it time for that."""
        if leaves:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVE_S)
        self._process.kill()
        self._connection.close()
        self._process.wait()
        end_marked(self._mark)


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def end_marked(mark: str) -> None:
    """End the processes of this machine that carry a session's mark, and those that they start meanwhile."""
    deadline = time.monotonic() + _LEAVE_S
    while (left := marked(mark)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def marked(mark: str) -> list[int]:
    """Processes of this machine that carry a session's mark, without this one."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
    return [pid for pid in found if pid != os.getpid()]
