"""Supervises a run on Ray: starts the Ray process, relays its events, and starts another one if Ray is lost.

Ray takes over the process that calls `ray.init`: it replaces signal handlers, aborts three seconds after SIGTERM, and
exits when its control service is gone. The driver therefore never imports it (decision 003). It keeps signals, lease
and terminal to itself, and a child process, the Ray process (`ray_process`), connects to Ray with signals blocked.

`run_on_ray` repeats these steps until the run has ended:

1. Start the Ray process with a pipe to it and a mark in its environment, and send it the `Job`.
2. Relay: print the events that arrive, pass a stop request on, and look for the run's stop file until workers run.
3. Kill every process on this machine that carries the mark, so that nothing of a broken cluster stays behind.
4. Decide by the outcome: return if training has ended or was stopped, raise an error that would occur again, and
   otherwise count a failure (`run.max_failures`) and start again from the newest complete checkpoint.
"""

from __future__ import annotations

import json
import logging
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

logger = logging.getLogger(__name__)

MARK = "IVR_DIST_RAY_PROCESS"
"""Environment variable that marks the Ray process and all its descendants on this machine."""

_BOOT = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from ivr_dist.orchestration.ray_process import main
main(int(sys.argv[2]))
"""
_POLL_S = 0.25
_CONNECT_TIMEOUT_S = {True: 60.0, False: 180.0}
"""Limit for connecting to a named cluster whose head node answers, and for starting a local one; Ray's is 15 min."""
_HEAD_TIMEOUT_S = 8.0
"""Limit for the head node of a named cluster to accept a connection, unless it has accepted one of this run before."""
_EXIT_TIMEOUT_S = 10.0
_MAX_START_FAILURES = 3
"""Consecutive failures to start a local cluster before the run fails."""
_STOP_FILE_PERIOD_S = 1.0


@dataclass(frozen=True)
class Job:
    """The work of the Ray process; sent to it through the pipe."""

    config: dict[str, Any]
    debug: bool
    started: float
    """Unix time when the driver was started."""
    attempts_before: int
    """Attempts of the run when the driver was started."""
    failures: int
    """Failures that the run has survived so far."""
    address: str
    """Address of the Ray cluster; empty for a local one, which the Ray process starts."""
    scratch: str
    """Folder for sockets and logs of a local cluster."""
    head_timeout_s: float
    """Seconds in which the head node of a named cluster must accept a connection."""


@dataclass(frozen=True)
class Outcome:
    """How a Ray process ended."""

    kind: Literal["done", "failed", "unstarted", "lost", "stopped"]
    """unstarted: no cluster was reached or started; lost: a part of Ray, or the Ray process, has died; stopped: by the
    stop file or a signal, before any worker ran."""
    error: IvrError | None = None
    what: str = ""
    """Description of what was lost."""
    failures: int = 0
    """Worker failures that Ray Train has survived meanwhile."""


def run_on_ray(config: Config, console: LocalConsole, debug: bool, started: float) -> None:
    """Run the workers to their end, on the cluster that `RAY_ADDRESS` names or on a local one.

    Args:
        config: The run's config.
        console: Receives the workers' events; its `stop` ends training after a checkpoint.
        debug: Print what Ray and the workers print.
        started: Unix time when the driver was started.

    Raises:
        IvrError: The error that ended the run.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    attempts_before = len(read_attempts(storage.absolute(config.run.dir)))
    job = Job(to_dict(config), debug, started, attempts_before, 0, address, "", _HEAD_TIMEOUT_S)
    start_failures = 0
    while True:
        with _scratch_folder(address) as folder:
            job = replace(job, scratch=folder)
            outcome = _run_once(job, console, RunPaths(storage.absolute(config.run.dir)).stop_file)
        logger.info("the Ray process ended: %s %s", outcome.kind, outcome.what)
        if outcome.kind in ("done", "stopped"):
            return
        start_failures = start_failures + 1 if outcome.kind == "unstarted" else 0
        # A local cluster may fail to start for a transient reason: a process was killed, the machine was busy.
        retry_start = not address and 0 < start_failures < _MAX_START_FAILURES
        if outcome.error is not None and not retry_start:
            # A cluster that was there before and is gone now is not the user's mistake.
            raise _cluster_lost(outcome.error) if start_failures and job.failures else outcome.error
        what = outcome.what if outcome.error is None else outcome.error.what
        if console.stop.is_set():
            _report(console, f"{what}; the newest complete checkpoint is kept")
            return
        if retry_start:
            _report(console, f"{what}; trying again")
            continue
        failures = job.failures + outcome.failures + 1
        if 0 <= config.run.max_failures < failures:
            raise WorkerError(
                f"{outcome.what}, after {failures - 1} other failures",
                where=f"run.max_failures={config.run.max_failures}",
                remedy="the same command continues from the last checkpoint; --debug shows what Ray printed",
            )
        allowed = "" if config.run.max_failures < 0 else f" of {config.run.max_failures}"
        _report(console, f"{outcome.what} (failure {failures}{allowed}); all workers are restarted")
        # The head node of a cluster that was there a moment ago may be restarting.
        job = replace(job, failures=failures, head_timeout_s=max(_HEAD_TIMEOUT_S, config.run.wait_s))


def _cluster_lost(error: IvrError) -> WorkerError:
    return WorkerError(error.what, where=error.where, remedy=f"{error.remedy}; the same command continues this run")


def _report(console: LocalConsole, text: str) -> None:
    console.emit(Phase(text))


@contextmanager
def _scratch_folder(address: str) -> Iterator[str]:
    """Create a temporary folder for a local cluster; a named one needs none."""
    folder = "" if address else scratch_folders.ray_folder()
    try:
        yield folder
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _run_once(job: Job, console: LocalConsole, stop_file: str) -> Outcome:
    """Run one Ray process from its start to its end."""
    process = _RayProcess(job)
    exits_itself = False
    try:
        outcome = _relay(process, job, console, stop_file)
        exits_itself = outcome.kind in ("done", "failed", "unstarted")
        return outcome
    finally:
        process.end(exits_itself)


def _relay(process: _RayProcess, job: Job, console: LocalConsole, stop_file: str) -> Outcome:
    """Relay events of the Ray process to the console until it ends, and a stop request to it."""
    connected = workers = stopping = False
    failures = 0
    deadline = time.monotonic() + _CONNECT_TIMEOUT_S[bool(job.address)] + (job.head_timeout_s if job.address else 0.0)
    checked = time.monotonic()
    while True:
        if console.stop.is_set() and not stopping:
            stopping = True
            process.stop()
        if not workers:
            if not connected and stopping:
                return Outcome("stopped")
            if not connected and time.monotonic() > deadline:
                return Outcome("unstarted", error=no_cluster(job.address, "it does not answer"))
            if time.monotonic() - checked >= _STOP_FILE_PERIOD_S:
                checked = time.monotonic()
                if _exists(stop_file):
                    console.how = "stop file"
                    return Outcome("stopped")
        message = process.receive(_POLL_S)
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
    """Make the error for a cluster that could not be reached or started."""
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


class _RayProcess:
    """The Ray process as the driver sees it: a child process and a pipe.

    Args:
        job: Sent to it at once.
    """

    def __init__(self, job: Job) -> None:
        self._mark = uuid.uuid4().hex
        self._connection: Connection[Any, Any]
        self._connection, there = Pipe()
        # Ray prints pages of output about one error: shown with --debug only.
        sink = _stderr() if job.debug else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(there.fileno())],
            env={**os.environ, MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=[there.fileno()],
            # A terminal's Ctrl-C and a scheduler's signal to the process group must reach the driver alone.
            start_new_session=True,
        )
        there.close()
        with suppress(OSError):
            self._connection.send(job)

    def receive(self, timeout_s: float) -> tuple[Any, Any] | None:
        """Return the next message (see `ray_process`), None after the timeout, or `lost` once the process is gone."""
        try:
            if self._connection.poll(timeout_s):
                message: tuple[Any, Any] = self._connection.recv()
                return message
        except (EOFError, OSError):
            return "lost", f"the Ray process has ended ({_exit_status(self._process.wait())})"
        return None

    def stop(self) -> None:
        """Ask it to end training after a checkpoint."""
        with suppress(OSError):
            self._connection.send("stop")

    def end(self, exits_itself: bool) -> None:
        """Kill it and its descendants on this machine; if it `exits_itself`, wait a few seconds for that first."""
        if exits_itself:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_TIMEOUT_S)
        self._process.kill()
        self._connection.close()
        self._process.wait()
        kill_marked(self._mark)


def _stderr() -> IO[Any] | int:
    """The stream for what a child process prints: stderr, also where a notebook has replaced `sys.stderr`."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return 2


def _exit_status(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def kill_marked(mark: str) -> None:
    """Kill the processes of this machine that carry a mark, and those that they start meanwhile."""
    deadline = time.monotonic() + _EXIT_TIMEOUT_S
    while (pids := find_marked(mark)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def find_marked(mark: str) -> list[int]:
    """Return the ids of the processes of this machine that carry a mark, without this one."""
    entry = f"{MARK}={mark}".encode()
    pids = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if entry in environ.read_bytes().split(b"\0"):
                pids.append(int(environ.parent.name))
    return [pid for pid in pids if pid != os.getpid()]
