"""The supervisor's reaction to each way in which a Ray process can end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ivr_dist.config import Config
from ivr_dist.config.loading import load_config
from ivr_dist.display.console import LocalConsole
from ivr_dist.errors import CorruptDataError, UserError, WorkerError
from ivr_dist.orchestration import supervisor
from ivr_dist.orchestration.supervisor import Job, Outcome, find_marked, kill_marked, run_on_ray

LOST = Outcome("lost", what="its raylet has ended", failures=0)
UNSTARTED = Outcome("unstarted", error=UserError("no Ray cluster could be started on this machine: it did not answer"))
DONE = Outcome("done")


class FakeProcesses:
    """Replaces Ray processes: each ends with the next outcome; `jobs` keeps what they were sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, outcomes: Sequence[Outcome]) -> None:
        self.jobs: list[Job] = []
        left = iter(outcomes)

        def end(job: Job, console: LocalConsole, stop_file: str) -> Outcome:
            assert os.path.isdir(job.scratch) or job.address
            self.jobs.append(job)
            return next(left)

        monkeypatch.setattr(supervisor, "_run_once", end)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(None, [f"run.dir={tmp_path}/run", "data.train=x", "train.select=last", "run.max_failures=2"])


def test_a_lost_ray_process_is_restarted_until_max_failures(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = FakeProcesses(monkeypatch, [LOST, Outcome("lost", what="its raylet has ended", failures=0), DONE])
    run_on_ray(config, LocalConsole(), False, 1.0)
    assert [(job.failures, job.head_timeout_s) for job in processes.jobs] == [(0, 8.0), (1, 300.0), (2, 300.0)]
    assert not any(os.path.exists(job.scratch) for job in processes.jobs)
    assert "its raylet has ended (failure 2 of 2); all workers are restarted" in capsys.readouterr().out
    processes = FakeProcesses(monkeypatch, [LOST, Outcome("lost", what="gone", failures=1)])
    with pytest.raises(WorkerError, match="gone, after 2 other failures"):
        run_on_ray(config, LocalConsole(), False, 1.0)
    assert len(processes.jobs) == 2


def test_a_cluster_that_does_not_start_is_tried_again(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = FakeProcesses(monkeypatch, [UNSTARTED, UNSTARTED, LOST, UNSTARTED, DONE])
    run_on_ray(config, LocalConsole(), False, 1.0)
    assert [job.failures for job in processes.jobs] == [0, 0, 0, 1, 1], (
        "a failed start does not count as a failure of the run"
    )
    assert "it did not answer; trying again" in capsys.readouterr().out
    FakeProcesses(monkeypatch, [UNSTARTED] * 3)
    with pytest.raises(UserError, match="did not answer"):
        run_on_ray(config, LocalConsole(), False, 1.0)
    processes = FakeProcesses(monkeypatch, [UNSTARTED])
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match="did not answer"):
        run_on_ray(config, LocalConsole(), False, 1.0)
    assert len(processes.jobs) == 1, "a named cluster that does not answer is an error at once"
    FakeProcesses(monkeypatch, [LOST, UNSTARTED])
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(WorkerError, match="did not answer") as gone:
        run_on_ray(config, LocalConsole(), False, 1.0)
    assert gone.value.exit_code == 1, "it was there before: not a mistake of the user"
    assert "the same command continues this run" in gone.value.remedy


def test_an_explained_error_ends_the_run_and_a_stop_request_ends_the_retries(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeProcesses(monkeypatch, [Outcome("failed", error=CorruptDataError("shard 3 is damaged"))])
    with pytest.raises(CorruptDataError, match="shard 3"):
        run_on_ray(config, LocalConsole(), False, 1.0)
    console = LocalConsole()
    console.stop.set()
    for outcome in (LOST, UNSTARTED, Outcome("stopped")):
        processes = FakeProcesses(monkeypatch, [outcome])
        run_on_ray(config, console, False, 1.0)
        assert len(processes.jobs) == 1


@pytest.fixture
def mark() -> Iterator[str]:
    made = uuid.uuid4().hex
    yield made
    kill_marked(made)


def test_marked_processes_are_killed_wherever_they_are(mark: str) -> None:
    """Also those that left the process group; none with another mark."""
    code = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True); sys.stdin.read()"

    def start(mark: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, supervisor.MARK: mark}
        return subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE)

    ours, other = start(mark), start("another")
    deadline = time.monotonic() + 20
    while (len(find_marked(mark)), len(find_marked("another"))) != (2, 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    kill_marked(mark)
    assert ours.wait(5) == -9
    assert find_marked(mark) == []
    assert other.poll() is None
    kill_marked("another")
    other.wait(5)
