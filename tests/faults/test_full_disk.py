"""A disk that fills up while a run is trained."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ivr_dist.corpora.synth import SynthSource
from ivr_dist.data.pack import pack


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_ends_the_run_after_some_checkpoints(small_disk: Path, tmp_path: Path) -> None:
    """One line says what, where and what to do; the checkpoint before stays, and counts."""
    pack(SynthSource(samples=120, seed=4), str(tmp_path / "corpus"))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"run: {{dir: {small_disk}/run, num_workers: 0}}\n"
        f"data: {{train: {tmp_path}/corpus/train}}\n"
        "model: {hidden: 32}\n"
        "loss: {consistency: {group: 16}}\n"
        "train: {global_batch: 32, max_steps: 500, select: last}\n"
        "checkpoint: {every: 2steps, keep_last: 9, max_failed: 1}\n"
    )
    command = [sys.executable, "-m", "ivr_dist", "train", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("a checkpoint could not be written") >= 1
    assert "no space" in done.stdout.lower(), done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
