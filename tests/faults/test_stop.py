"""Signals end a run after a checkpoint, with the exit code that schedulers expect."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ivr_dist.checkpoint import store
from ivr_dist.corpora.synth import SynthSource
from ivr_dist.data.pack import pack

DEADLINE_S = 120.0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_a_checkpoint(tmp_path: Path, number: signal.Signals, code: int) -> None:
    pack(SynthSource(samples=120, seed=4), str(tmp_path / "corpus"))
    run = tmp_path / "run"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"run: {{dir: {run}, num_workers: 0}}\n"
        f"data: {{train: {tmp_path}/corpus/train}}\n"
        "model: {hidden: 8}\n"
        "loss: {consistency: {group: 16}}\n"
        "train: {global_batch: 32, max_steps: 100000, select: last}\n"
        "checkpoint: {every: 5steps}\n"
    )
    command = [sys.executable, "-m", "ivr_dist", "train", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + DEADLINE_S
    while not store.names(str(run)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, errors
    assert "stopping after a checkpoint" in errors
    assert "the same command continues this run" in output
    newest = store.names(str(run))[0]
    assert store.verify(newest.url(str(run)))["step"] == newest.step
    assert f"saved checkpoint {newest}" in output
