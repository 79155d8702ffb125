"""Signals and the stop file end a run after a checkpoint, with the exit code that schedulers expect."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ivr_dist.checkpoint import store
from tests.small_runs import train_command

DEADLINE_S = 120.0


def start_long_run(tmp_path: Path) -> tuple[Path, list[str]]:
    """Return the run directory, and the command that trains it in one process."""
    run = tmp_path / "run"
    settings = ("model.hidden=8", "train.max_steps=100000", "checkpoint.every=5steps")
    return run, train_command(tmp_path, run, *settings)


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not store.names(str(run)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_a_checkpoint(tmp_path: Path, number: signal.Signals, code: int) -> None:
    run, command = start_long_run(tmp_path)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(run, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, errors
    assert "stopping after a checkpoint" in errors
    assert "the same command continues this run" in output
    newest = store.names(str(run))[0]
    assert store.verify(newest.url(str(run))).step == newest.step
    assert f"saved checkpoint {newest}" in output


def test_the_stop_file_ends_the_run_with_code_0_and_the_same_command_continues(tmp_path: Path) -> None:
    run, command = start_long_run(tmp_path)
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(run, process)
    done = subprocess.run(
        [sys.executable, "-m", "ivr_dist", "stop", str(run)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"requested a stop of {run};")
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    assert "the same command continues this run" in errors
    result = json.loads(output.splitlines()[-1])
    assert result["status"] == "stopped"
    assert len(result["loss"]) == result["steps"] > 0
    assert result["checkpoint"] == store.names(str(run))[0].url(str(run))
    shown = subprocess.run(
        [sys.executable, "-m", "ivr_dist", "status", str(run)], capture_output=True, text=True, check=True
    )
    assert "stopped by the stop file" in shown.stdout
    again = [sys.executable, "-m", "ivr_dist", "stop", str(run)]
    done = subprocess.run(again, capture_output=True, text=True, check=True)
    assert done.stdout == f"nothing to stop: no command is training {run}\n"

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + DEADLINE_S
    while store.names(str(run))[0].step <= result["steps"] and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (run / "stop").exists(), "the stop file belonged to the previous run"
    process.terminate()
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143, errors
    assert f"training from step {result['steps']}" in output
