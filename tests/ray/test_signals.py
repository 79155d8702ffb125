"""Signals to a run on Ray: a checkpoint is written, the exit code is that of the signal, no process stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ivr_dist.checkpoint import store
from ivr_dist.config.loading import load_config
from ivr_dist.config.yaml_writer import to_yaml
from ivr_dist.inspection.status import status
from tests.drill.processes import left_over, of_command
from tests.ray.clusters import ROOT, Cluster

# In one worker of pytest-xdist: clusters are heavy, and these tests share one.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

DEADLINE_S = 180.0


class Run:
    """A long run on two workers, and the output of its command."""

    def __init__(self, corpus: str, place: Path, *more: str) -> None:
        self.dir = place / "run"
        self._config = place / "run.yaml"
        given = [
            f"data.train={corpus}/train",
            f"data.valid={corpus}/valid",
            f"run.dir={self.dir}",
            "run.num_workers=2",
            "model.hidden=16",
            "train.global_batch=32",
            "loss.consistency.group=16",
            "train.max_steps=100000",
            "train.eval_every=1000steps",
            "checkpoint.every=10steps",
            "log.console_s=0.2",
            *more,
        ]
        self._config.write_text(to_yaml(load_config(None, given)))
        self.command = [sys.executable, "-m", "ivr_dist", "train", str(self._config)]
        self.output = place / "output"
        self.process: subprocess.Popen[bytes]

    def start(self, address: str = "") -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"RUN": str(self.dir)} | ({"RAY_ADDRESS": address} if address else {})
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.command, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"ended with {self.process.returncode} before the signal:\n{self.said()}")
            time.sleep(0.02)

    def wait_for_text(self, text: str) -> None:
        self.wait_for(lambda: text in self.said())

    def wait_for_training(self) -> None:
        self.wait_for(lambda: bool(store.names(str(self.dir))))

    def check_end(self, code: int) -> None:
        """Check that the command ends with this exit code, leaves no process, and shows no traceback."""
        self.process.wait(DEADLINE_S)
        assert self.process.returncode == code, self.said()
        assert left_over(self.dir) == []
        for word in ("Traceback", "internal error", "SIGTERM received", "*** "):
            assert word not in self.said()

    def check_checkpoint(self) -> int:
        """Check that the newest checkpoint is complete; returns its step."""
        newest = store.names(str(self.dir))[0]
        assert store.verify(newest.url(str(self.dir))).step == newest.step
        return newest.step


@pytest.fixture
def run(corpus: str, tmp_path: Path) -> Iterator[Run]:
    made = Run(corpus, tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_sigterm_while_training_on_a_local_cluster(run: Run) -> None:
    run.start()
    run.wait_for_training()
    run.process.send_signal(signal.SIGTERM)
    run.check_end(143)
    assert run.check_checkpoint() > 0
    assert "stopping after a checkpoint" in run.said()
    assert "the same command continues this run" in run.said()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_scheduler_that_signals_every_process_of_a_job(run: Run, number: signal.Signals) -> None:
    """As `scancel` does: Ray's processes and the workers get the signal too, and run on until the checkpoint exists."""
    run.start()
    run.wait_for_training()
    before = store.names(str(run.dir))[0].step
    started = [pid for pids in of_command(run.process.pid).values() for pid in pids]
    assert len(started) > 6
    for pid in started:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    run.check_end(128 + number)
    assert run.check_checkpoint() >= before
    assert status(str(run.dir)).state == "asked", "the workers ended by themselves"


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_while_workers_start(run: Run, cluster: Cluster, number: signal.Signals, code: int) -> None:
    run.start(cluster.address)
    run.wait_for_text("starting workers")
    time.sleep(1.0)
    run.process.send_signal(number)
    run.check_end(code)
    assert run.check_checkpoint() == 0, "nothing was trained"


@pytest.mark.long
def test_a_signal_before_there_is_a_cluster(run: Run) -> None:
    run.start()
    run.wait_for_text("starting a Ray cluster")
    run.process.send_signal(signal.SIGTERM)
    run.check_end(143)
    assert store.names(str(run.dir)) == []


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_at_once(run: Run, number: signal.Signals, code: int) -> None:
    run.start()
    run.wait_for_text("starting workers")
    run.process.send_signal(number)
    run.wait_for_text("stopping after a checkpoint")
    sent = time.monotonic()
    run.process.send_signal(number)
    run.check_end(code)
    assert time.monotonic() - sent < 10.0


@pytest.mark.long
def test_sigterm_while_evaluating(corpus: str, tmp_path: Path, cluster: Cluster) -> None:
    """Nearly all the time of a step is evaluation, so the signal arrives during one."""
    run = Run(corpus, tmp_path, "train.eval_every=1step", "log.svr_every=0")
    run.start(cluster.address)
    run.wait_for_text("evaluated valid at step 3:")
    run.process.send_signal(signal.SIGTERM)
    run.check_end(143)
    assert run.check_checkpoint() >= 3


@pytest.mark.long
def test_ivr_dist_stop_while_a_run_starts_and_while_it_trains(run: Run, cluster: Cluster) -> None:
    stop = [sys.executable, "-m", "ivr_dist", "stop", str(run.dir)]
    run.start()
    run.wait_for_text("starting a Ray cluster")
    done = subprocess.run(stop, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run.check_end(0)
    assert "the same command continues this run" in run.said()

    run.start(cluster.address)
    run.wait_for_text("starting workers")
    assert subprocess.run(stop, check=False, stdout=subprocess.DEVNULL).returncode == 0
    run.check_end(0)
    run.check_checkpoint()
    assert status(str(run.dir)).state == "stop file"


@pytest.mark.long
def test_ray_job_stop_lets_a_run_write_its_checkpoint(run: Run, cluster: Cluster) -> None:
    """Submitted by `ray job submit`, with the cluster's grace period between SIGTERM and SIGKILL."""
    ray, job = f"{sys.prefix}/bin/ray", "the-job"
    words = [ray, "job", "submit", "--address", cluster.url, "--submission-id", job, "--", *run.command]
    with run.output.open("wb") as output:
        run.process = subprocess.Popen(words, cwd=ROOT, env=cluster.environment, stdout=output, stderr=output)
    run.wait_for_training()
    stop = [ray, "job", "stop", "--address", cluster.url, job]
    subprocess.run(stop, env=cluster.environment, check=True, capture_output=True)
    run.process.wait(DEADLINE_S)
    assert "stopping after a checkpoint" in run.said()
    assert run.check_checkpoint() > 0
    assert status(str(run.dir)).state == "asked"
    assert left_over(run.dir) == []
