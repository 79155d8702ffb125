"""`ivr-dist train` on Ray under faults (a killed worker, an interrupted driver) gives the losses of a run without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ivr_dist.checkpoint import store
from ivr_dist.config.loading import load_config
from ivr_dist.inspection.audit import audit
from ivr_dist.run.attempts import read_attempts
from ivr_dist.run.results import loss_curve
from tests.ranks import run_ranks
from tests.ray.clusters import Cluster
from tests.ray.uninterrupted import train_in_one_piece

# In one worker of pytest-xdist: clusters are heavy, and these tests share one.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

STEPS = 60
DEADLINE_S = 180.0


def settings(corpus: str, run: Path) -> list[str]:
    """60 steps are seven epochs and a half; dropout is on."""
    return [
        f"data.train={corpus}/train",
        f"data.valid={corpus}/valid",
        f"run.dir={run}",
        "run.num_workers=2",
        "model.hidden=16",
        "model.dropout=0.1",
        "train.global_batch=32",
        "loss.consistency.group=16",
        f"train.max_steps={STEPS}",
        "train.eval_every=20steps",
        "checkpoint.every=10steps",
        "log.console_s=0.2",
        "zero.stage=2",
    ]


@pytest.fixture(scope="module")
def reference(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    run = tmp_path_factory.mktemp("reference")
    run_ranks(train_in_one_piece, 2, settings(corpus, run))
    return loss_curve(str(run))


def start(overrides: list[str], *options: str, address: str = "") -> subprocess.Popen[str]:
    """Train on the cluster at `address`, or on a local one of the command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_ADDRESS": address} if address else {}
    command = [sys.executable, "-m", "ivr_dist", "train", str(write_config(overrides)), *options]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def write_config(overrides: list[str]) -> Path:
    """Write the overrides as a config file of a user."""
    from ivr_dist.config.yaml_writer import to_yaml

    run = next(text.partition("=")[2] for text in overrides if text.startswith("run.dir="))
    path = Path(run).with_suffix(".yaml")
    path.write_text(to_yaml(load_config(None, overrides)))
    return path


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"ended with {process.returncode} before the fault:\n{process.communicate()[0]}")
        time.sleep(0.05)


def finish(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=DEADLINE_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"the run hangs:\n{process.communicate()[0]}")


def saved(run: Path, step: int) -> Callable[[], bool]:
    return lambda: any(name.step >= step for name in store.names(str(run)))


def test_killed_worker(corpus: str, reference: list[tuple[int, float]], tmp_path: Path, cluster: Cluster) -> None:
    """The run recovers by itself, with the same losses and the same samples."""
    run = tmp_path / "run"
    process = start(settings(corpus, run), "--json", address=cluster.address)
    wait_for(saved(run, 10), process)
    _, _, pid = read_attempts(str(run))[0].workers[1].rpartition(":")
    os.kill(int(pid), signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 0, output
    assert loss_curve(str(run)) == reference
    report = audit(str(run))
    assert report.ok
    assert report.attempts == 2
    result = json.loads(output.splitlines()[-1])
    assert result["steps"] == STEPS
    assert [tuple(point) for point in result["loss"]] == reference


@pytest.mark.long
def test_ctrl_c_and_the_same_command_again(
    corpus: str, reference: list[tuple[int, float]], tmp_path: Path, cluster: Cluster
) -> None:
    """First on a local cluster, then on a named one."""
    run = tmp_path / "run"
    process = start(settings(corpus, run))
    wait_for(saved(run, 10), process)
    process.send_signal(signal.SIGINT)
    output = finish(process)
    assert process.returncode == 130, output
    assert "the same command continues this run" in output
    interrupted_at = store.names(str(run))[0].step
    assert interrupted_at < STEPS

    process = start(settings(corpus, run), address=cluster.address)
    output = finish(process)
    assert process.returncode == 0, output
    assert f"training from step {interrupted_at}" in output
    assert loss_curve(str(run)) == reference
    assert audit(str(run)).ok
