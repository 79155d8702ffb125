"""`train --seeds`: one run for each seed, finished ones are kept, a signal stops the one that trains."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ivr_dist.checkpoint import store
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import pack

DEADLINE_S = 120.0


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    pack(SynthSource(samples=120, seed=4), str(tmp_path / "corpus"))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path}/run, num_workers: 0}}\n"
        f"data: {{train: {tmp_path}/corpus/train, valid: {tmp_path}/corpus/valid}}\n"
        "model: {hidden: 8}\n"
        "loss: {consistency: {group: 16}}\n"
        "train: {global_batch: 32, max_steps: 4}\n"
    )
    return [sys.executable, "-m", "ivr_dist", "train", str(config), "--seeds"]


def test_every_seed_is_a_run_and_the_summary_is_of_all(command: list[str], tmp_path: Path) -> None:
    first = subprocess.run([*command, "5"], capture_output=True, text=True, check=True)
    assert "seed 5 (1 of 1)" in first.stdout
    done = subprocess.run([*command, "5,7", "--json"], capture_output=True, text=True, check=True)
    assert "this run is complete already" in done.stderr
    summary = json.loads(done.stdout)
    assert summary == json.loads((tmp_path / "run" / "seeds.json").read_text())
    assert summary["seeds"] == [5, 7]
    mae = summary["metrics"]["valid"]["synth/mae"]
    singles = [json.loads((tmp_path / "run" / f"seed-{seed}" / "result.json").read_text()) for seed in (5, 7)]
    assert mae["values"] == [single["metrics"]["valid"]["synth/mae"] for single in singles]
    assert mae["values"][0] != mae["values"][1]
    assert [
        json.loads((tmp_path / "run" / f"seed-{s}" / "run.json").read_text())["config"]["run"]["seed"] for s in (5, 7)
    ] == [5, 7]
    # With other losses both directories are refused before anything is trained; a third seed is not started.
    refused = subprocess.run([*command, "5,7,9", "loss.svr.weight=0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    for seed in (5, 7):
        assert f"seed-{seed} is a finished run of another config: loss.svr.weight is 1 there" in refused.stderr
    assert not (tmp_path / "run" / "seed-9").exists()


def test_a_signal_to_the_parent_stops_the_seed_after_a_checkpoint(command: list[str], tmp_path: Path) -> None:
    endless = [*command, "1,2", "train.max_steps=100000", "checkpoint.every=5steps"]
    process = subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "run" / "seed-1"
    deadline = time.monotonic() + DEADLINE_S
    while not (run.exists() and store.names(str(run))) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143, errors
    assert "the same command continues this run" in output
    assert not (tmp_path / "run" / "seed-2").exists()
