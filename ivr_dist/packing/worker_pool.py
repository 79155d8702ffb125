"""Worker pools: run independent jobs in this process or on a process pool.

A pool runs one function over a list of jobs. Function, jobs and results are pickled, so the function receives what it
needs to open files itself.

`ProcessPool` extends a `concurrent.futures.ProcessPoolExecutor`:

1. Progress within jobs: each worker writes a counter in shared memory, which the caller polls.
2. A failed job or Ctrl-C kills running jobs; the executor would wait for them.
3. Workers end with their parent, also if that is killed. Otherwise they would continue to write shards
   beside those of a restarted command.
4. A killed worker is an error that names the signal, also when the worker was in the middle of sending a result. The
   executor would wait for the rest of it.
5. An exception that cannot be pickled becomes a `WorkerError` that describes it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, MutableSequence, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import connection
from multiprocessing.context import SpawnContext
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

_POLL_S = 0.1
"""Seconds between checks for progress and for killed workers."""


class WorkerPool(Protocol):
    """Runs jobs, in this process or on a process pool."""

    start_s: float
    """Seconds until the first job starts: work that takes less is faster in this process."""

    def run(
        self,
        function: Callable[[J, OnProgress], R],
        jobs: Sequence[J],
        on_job_progress: OnJobProgress,
        on_result: Callable[[int, R], None],
    ) -> None:
        """Run every job once, in any order and several at a time.

        Args:
            function: Called with a job and a callback for its progress.
            jobs: The jobs.
            on_job_progress: Called with progress within jobs, where the pool supports that.
            on_result: Called with the number of a job and its result, as soon as the job is done.

        Raises:
            IvrError: A job failed; the others are cancelled.
        """


class InlinePool:
    """Runs jobs in this process, one after the other."""

    def run(
        self,
        function: Callable[[J, OnProgress], R],
        jobs: Sequence[J],
        on_job_progress: OnJobProgress,
        on_result: Callable[[int, R], None],
    ) -> None:
        """See `WorkerPool`."""
        for number, job in enumerate(jobs):
            on_result(number, function(job, partial(on_job_progress, number)))


class ProcessPool:
    """Runs jobs in processes of this machine, which end with this one, even if it is killed.

    Processes are spawned, not forked: the clients of object stores have threads, which do not survive a fork.

    Args:
        count: Maximum number of processes.
        start_s: See `WorkerPool`; by default about the time that starting the processes takes.
    """

    def __init__(self, count: int, start_s: float = 1.0) -> None:
        self.start_s = start_s
        self._count = count

    def run(
        self,
        function: Callable[[J, OnProgress], R],
        jobs: Sequence[J],
        on_job_progress: OnJobProgress,
        on_result: Callable[[int, R], None],
    ) -> None:
        """See `WorkerPool`.

        Raises:
            WorkerError: A process was killed.
        """
        if not jobs:
            return
        context = _Context()
        progress = context.RawArray("q", len(jobs))
        count = min(self._count, len(jobs))
        executor = ProcessPoolExecutor(count, context, _init_worker, (function, progress))
        waiting = enumerate(jobs)
        running: dict[Future[R], int] = {}
        report = _ProgressReport(progress, on_job_progress)
        try:
            while True:
                # One job runs in each process and one waits for it: a long list of jobs is not pickled in advance.
                for number, job in islice(waiting, 2 * count - len(running)):
                    running[executor.submit(_run_job, number, job)] = number
                if not running:
                    return
                ended, _ = wait(running, _POLL_S, FIRST_COMPLETED)
                for future in ended:
                    on_result(running.pop(future), future.result())
                report.update(running.values())
                # The executor detects this as well, unless it is waiting for the rest of a result.
                if any(process.exitcode for process in context.processes):
                    raise BrokenProcessPool
        except BrokenProcessPool:
            raise WorkerError(
                f"a worker process {_how_one_ended(context.processes)}",
                remedy="the same command continues from here; if memory was short, use fewer --jobs",
            ) from None
        finally:
            _kill(executor, context)


class _Context(SpawnContext):
    """The spawn context, with a list of the processes that an executor started by it."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[BaseProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override]
        process = super().Process(*args, **kwargs)
        self.processes.append(process)
        return process


class _ProgressReport:
    """Reports counters that have changed."""

    def __init__(self, counters: Sequence[int], on_job_progress: OnJobProgress) -> None:
        self._counters = counters
        self._on_job_progress = on_job_progress
        self._reported: dict[int, int] = {}

    def update(self, running: Iterable[int]) -> None:
        """Report the progress of some jobs since the last call."""
        for number in running:
            done = self._counters[number]
            if done != self._reported.get(number, 0):
                self._reported[number] = done
                self._on_job_progress(number, done)


def _kill(executor: ProcessPoolExecutor, context: _Context) -> None:
    """End all workers at once, and the executor with them."""
    # Where the system is short of processes, the last one could not be started.
    started = [process for process in context.processes if process.pid is not None]
    # Not by SIGTERM, which workers inherit blocked or ignored from some parents.
    for process in started:
        process.kill()
    for process in started:
        process.join()
    # A result of which a part was sent ends in an EOF only when no process holds the other end of the pipe.
    results = getattr(executor, "_result_queue", None)
    if results is not None:
        results._writer.close()
    executor.shutdown()


def _how_one_ended(processes: Sequence[BaseProcess]) -> str:
    """Describe the end of the first worker that died; the executor then ends the others by SIGTERM."""
    sentinels = connection.wait([process.sentinel for process in processes])
    ended = [process for process in processes if process.sentinel in sentinels]
    # The code follows a moment after the sentinel; a thread of the executor may be the one that receives it.
    codes = [process.exitcode for process in ended]
    while None in codes:
        time.sleep(0.001)
        codes = [process.exitcode for process in ended]
    code = next((code for code in codes if code and code != -signal.SIGTERM), -signal.SIGTERM)
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


_worker: tuple[Callable[[Any, OnProgress], Any], MutableSequence[int]]
"""In a worker: the function, and a progress counter for each job."""


def _init_worker(function: Callable[[Any, OnProgress], Any], progress: MutableSequence[int]) -> None:
    global _worker
    # Ctrl-C goes to the whole process group; the parent terminates its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = function, progress


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_job(number: int, job: Any) -> Any:
    function, progress = _worker
    try:
        return function(job, partial(progress.__setitem__, number))
    except Exception as error:
        if not _is_portable(error):
            raise WorkerError(named(error), remedy=remedy_for(error)) from error
        raise


def _is_portable(error: Exception) -> bool:
    """Whether an error can be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
