"""Jobs that do not depend on each other, spread over processes.

A crew runs one function over a list of jobs. Function, jobs and results are pickled, so a function is given what it
needs to open files for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from ivr_dist.common.library_errors import named, remedy_for
from ivr_dist.errors import WorkerError

J = TypeVar("J")
R = TypeVar("R")

OnProgress = Callable[[int], None]
"""Called by a job with the units of work that it has done so far."""

OnJobProgress = Callable[[int, int], None]
"""Called with the number of a job and the units of work that it has done so far."""

_TICK_S = 0.1


class WorkerPool(Protocol):
    """Something that runs jobs."""

    start_s: float
    """Seconds before it begins: work that takes this process less is better done here."""

    def run(
        self,
        function: Callable[[J, OnProgress], R],
        jobs: Sequence[J],
        watch: OnJobProgress,
        take: Callable[[int, R], None],
    ) -> None:
        """Run every job once, in any order and several at a time.

        Args:
            function: Called with a job.
            jobs: The jobs.
            watch: Hears of progress within jobs, where that is possible.
            take: Gets the number of a job and its result, as soon as there is one.

        Raises:
            IvrError: A job failed; the others are given up.
        """


class InlinePool:
    """Runs jobs in this process, one after the other."""

    def run(
        self,
        function: Callable[[J, OnProgress], R],
        jobs: Sequence[J],
        watch: OnJobProgress,
        take: Callable[[int, R], None],
    ) -> None:
        """See `WorkerPool`."""
        for number, job in enumerate(jobs):
            take(number, function(job, partial(watch, number)))


class ProcessPool:
    """Runs jobs in processes of this machine, which end with this one whatever ends it.

    They are spawned, not forked: the clients of object stores have threads, which do not survive a fork.

    Args:
        count: Most processes at a time.
        start_s: See `WorkerPool`; by default about what it takes to start them.
    """

    def __init__(self, count: int, start_s: float = 1.0) -> None:
        self.start_s = start_s
        self._count = count

    def run(
        self,
        function: Callable[[J, OnProgress], R],
        jobs: Sequence[J],
        watch: OnJobProgress,
        take: Callable[[int, R], None],
    ) -> None:
        """See `WorkerPool`.

        Raises:
            WorkerError: A process was killed.
        """
        context = multiprocessing.get_context("spawn")
        waiting = enumerate(jobs)
        crew: dict[Connection, BaseProcess] = {}
        try:
            for _ in range(min(self._count, len(jobs))):
                ours, theirs = context.Pipe()
                crew[ours] = context.Process(target=_serve, args=(theirs, function), daemon=True)
                crew[ours].start()
                # Theirs alone then, so that a process that is gone is heard of.
                theirs.close()
            busy = [connection for connection in crew if _send_next(connection, waiting)]
            while busy:
                for connection in wait(busy):
                    assert isinstance(connection, Connection)
                    kind, number, value = _receive(connection, crew[connection])
                    if kind == "ticked":
                        watch(number, value)
                        continue
                    if kind == "failed":
                        raise value
                    take(number, value)
                    if not _send_next(connection, waiting):
                        busy.remove(connection)
        finally:
            for connection, process in crew.items():
                connection.close()
                process.terminate()
            for process in crew.values():
                process.join()


def _send_next(connection: Connection, waiting: Iterator[tuple[int, Any]]) -> bool:
    job = next(waiting, None)
    if job is not None:
        # A process that is gone is found out where its answer is read.
        with suppress(BrokenPipeError):
            connection.send(job)
    return job is not None


def _receive(connection: Connection, process: BaseProcess) -> tuple[str, int, Any]:
    try:
        answer: tuple[str, int, Any] = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        code = process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise WorkerError(
            f"a working process {how}",
            remedy="the same command goes on from here; if memory was short, use fewer --jobs",
        ) from None
    return answer


def _serve(connection: Connection, function: Callable[[Any, OnProgress], Any]) -> None:
    """What a process does: jobs as they come."""
    # Ctrl-C goes to the whole group; the one who started us ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Errors of the connection come from a parent that ends.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            number, job = connection.recv()
            connection.send(_answer(function, job, number, _Ticker(connection, number)))


def _end_with_parent() -> None:
    # Nobody may write shards on behalf of a command that was killed: the next one may write others there.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer(
    function: Callable[[Any, OnProgress], Any], job: Any, number: int, tick: OnProgress
) -> tuple[str, int, Any]:
    try:
        return "done", number, function(job, tick)
    except Exception as error:
        return "failed", number, _portable(error)


class _Ticker:
    """Passes progress on, not too often."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self._number = number
        self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        if time.monotonic() - self._last > _TICK_S:
            self._last = time.monotonic()
            self._connection.send(("ticked", self._number, done))


def _portable(error: Exception) -> Exception:
    """An error that can be pickled, with its traceback as a note."""
    with suppress(Exception):
        error.add_note("".join(traceback.format_exception(error)))
        pickle.loads(pickle.dumps(error))
        return error
    return WorkerError(named(error), remedy=remedy_for(error))
