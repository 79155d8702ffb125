"""Worker pools: every job runs once, a failed job ends the others, and no process outlives the caller."""

from __future__ import annotations

import _thread
import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from ivr_dist.errors import DataError, IvrError, WorkerError
from ivr_dist.packing.worker_pool import InlinePool, OnProgress, ProcessPool, WorkerPool


def squared(job: int, on_progress: OnProgress) -> tuple[int, int]:
    on_progress(1)
    return job * job, os.getpid()


def slow(job: int, on_progress: OnProgress) -> None:
    for done in range(1, 6):
        time.sleep(0.06)
        on_progress(done)


def failing(job: int, on_progress: OnProgress) -> int:
    if job == 3:
        raise DataError("a fault", where=f"job {job}", remedy="mend it")
    if job == 4:
        raise ValueError(lambda: "what cannot be pickled")
    return job


def killed(job: int, on_progress: OnProgress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failing_beside_a_long_one(job: int, on_progress: OnProgress) -> None:
    if job == 0:
        raise DataError("a fault")
    time.sleep(60)


def killed_beside_a_long_one(job: int, on_progress: OnProgress) -> None:
    if job == 0:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def cut_result(job: int, on_progress: OnProgress) -> bytes:
    """A worker that is killed when it has sent half of its result."""

    def send_half(self: Connection, data: bytes) -> None:
        os.write(self.fileno(), data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    Connection._send = send_half  # type: ignore[attr-defined]
    return bytes(100)


def run(pool: WorkerPool, function: object, jobs: list[int]) -> tuple[dict[int, object], list[tuple[int, int]]]:
    results: dict[int, object] = {}
    progress: list[tuple[int, int]] = []
    pool.run(function, jobs, lambda *call: progress.append(call), results.__setitem__)  # type: ignore[arg-type]
    return results, progress


@pytest.fixture(autouse=True)
def _no_process_stays() -> Iterator[None]:
    # Other tests keep groups of ranks.
    before = multiprocessing.active_children()
    yield
    assert set(multiprocessing.active_children()) <= set(before)


@pytest.mark.parametrize(
    "pool", [InlinePool(), ProcessPool(2), ProcessPool(8)], ids=["inline", "two", "more than jobs"]
)
def test_every_job_is_done_once(pool: WorkerPool) -> None:
    results, _ = run(pool, squared, [5, 3, 3, 7])
    assert {number: value for number, (value, _) in results.items()} == {0: 25, 1: 9, 2: 9, 3: 49}  # type: ignore[misc]
    pids = {pid for _, pid in results.values()}  # type: ignore[misc]
    assert (os.getpid() in pids) == isinstance(pool, InlinePool)


def test_no_jobs() -> None:
    assert run(ProcessPool(2), squared, []) == ({}, [])


def test_progress_within_jobs_is_reported() -> None:
    assert run(InlinePool(), slow, [0, 0])[1] == [(job, done) for job in (0, 1) for done in range(1, 6)]
    progress = run(ProcessPool(2), slow, [0, 0])[1]
    assert {number for number, _ in progress} == {0, 1}
    assert all(0 < done <= 5 for _, done in progress)


def test_the_error_of_a_job_comes_back_unchanged() -> None:
    with pytest.raises(DataError) as caught:
        run(ProcessPool(2), failing, [1, 2, 3, 5, 6])
    assert (caught.value.what, caught.value.where, caught.value.remedy) == ("a fault", "job 3", "mend it")
    with pytest.raises(IvrError, match="ValueError"):
        run(ProcessPool(1), failing, [4])


def test_a_failed_job_ends_running_ones_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match="a fault"):
        run(ProcessPool(2), failing_beside_a_long_one, [1, 0])
    assert time.monotonic() - start < 30


def test_workers_that_inherit_a_blocked_sigterm_are_ended_too() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with pytest.raises(DataError, match="a fault"):
            run(ProcessPool(2), failing_beside_a_long_one, [1, 0])
        with pytest.raises(WorkerError, match="SIGKILL"):
            run(ProcessPool(2), killed_beside_a_long_one, [1, 0])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_ctrl_c_ends_running_jobs_at_once() -> None:
    timer = threading.Timer(3, _thread.interrupt_main)
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(ProcessPool(2), failing_beside_a_long_one, [1, 1])
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("function", [killed, cut_result], ids=["in a job", "while it sends a result"])
def test_a_killed_process_is_an_error(function: object) -> None:
    with pytest.raises(WorkerError, match="SIGKILL"):
        run(ProcessPool(2), function, [0, 1, 2])


def marked(job: str, on_progress: OnProgress) -> None:
    Path(job, f"started-{os.getpid()}").touch()
    time.sleep(60)


def test_a_process_that_cannot_be_started_is_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = SpawnProcess.start, list[SpawnProcess]()

    def refuse_the_second(self: SpawnProcess) -> None:
        if started:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        start(self)
        started.append(self)

    monkeypatch.setattr(SpawnProcess, "start", refuse_the_second)
    with pytest.raises(BlockingIOError):
        ProcessPool(2).run(squared, range(4), lambda number, done: None, lambda number, result: None)
    assert started[0].exitcode == -signal.SIGKILL


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    parent = multiprocessing.get_context("fork").Process(target=run, args=(ProcessPool(2), marked, [str(tmp_path)] * 2))
    parent.start()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parent.kill()
    parent.join()
    pids = [int(path.name.partition("-")[2]) for path in tmp_path.iterdir()]
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
