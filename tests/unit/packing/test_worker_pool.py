"""Jobs in processes: every job once, whatever ends early ends all, and nobody outlives the one who asked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ivr_dist.errors import DataError, IvrError, WorkerError
from ivr_dist.packing.worker_pool import InlinePool, OnProgress, ProcessPool, WorkerPool


def squared(job: int, tick: OnProgress) -> tuple[int, int]:
    tick(1)
    return job * job, os.getpid()


def slow(job: int, tick: OnProgress) -> None:
    for done in range(1, 6):
        time.sleep(0.06)
        tick(done)


def failing(job: int, tick: OnProgress) -> int:
    if job == 3:
        raise DataError("a fault", where=f"job {job}", remedy="mend it")
    if job == 4:
        raise ValueError(lambda: "what cannot be pickled")
    return job


def killed(job: int, tick: OnProgress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(crew: WorkerPool, function: object, jobs: list[int]) -> tuple[dict[int, object], list[tuple[int, int]]]:
    results: dict[int, object] = {}
    seen: list[tuple[int, int]] = []
    crew.run(function, jobs, lambda *call: seen.append(call), results.__setitem__)  # type: ignore[arg-type]
    return results, seen


@pytest.fixture(autouse=True)
def _no_process_stays() -> Iterator[None]:
    # Other tests keep groups of ranks.
    before = multiprocessing.active_children()
    yield
    assert set(multiprocessing.active_children()) <= set(before)


@pytest.mark.parametrize("crew", [InlinePool(), ProcessPool(2), ProcessPool(8)], ids=["here", "two", "more than jobs"])
def test_every_job_is_done_once(crew: WorkerPool) -> None:
    results, _ = run(crew, squared, [5, 3, 3, 7])
    assert {number: value for number, (value, _) in results.items()} == {0: 25, 1: 9, 2: 9, 3: 49}  # type: ignore[misc]
    pids = {pid for _, pid in results.values()}  # type: ignore[misc]
    assert (os.getpid() in pids) == isinstance(crew, InlinePool)


def test_no_jobs() -> None:
    assert run(ProcessPool(2), squared, []) == ({}, [])


def test_progress_within_jobs_is_heard_of() -> None:
    assert run(InlinePool(), slow, [0, 0])[1] == [(job, done) for job in (0, 1) for done in range(1, 6)]
    seen = run(ProcessPool(2), slow, [0, 0])[1]
    assert {number for number, _ in seen} == {0, 1}
    assert all(0 < done <= 5 for _, done in seen)


def test_the_error_of_a_job_comes_back_as_it_was() -> None:
    with pytest.raises(DataError) as caught:
        run(ProcessPool(2), failing, [1, 2, 3, 5, 6])
    assert (caught.value.what, caught.value.where, caught.value.remedy) == ("a fault", "job 3", "mend it")
    with pytest.raises(IvrError, match="ValueError"):
        run(ProcessPool(1), failing, [4])


def test_a_killed_process_is_told() -> None:
    with pytest.raises(WorkerError, match="SIGKILL"):
        run(ProcessPool(2), killed, [0, 1, 2])


def marked(job: str, tick: OnProgress) -> None:
    Path(job, f"started-{os.getpid()}").touch()
    time.sleep(60)


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
