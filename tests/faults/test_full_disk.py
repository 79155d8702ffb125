"""A disk that fills up while a run is trained."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ivr_dist.corpora.synth import SynthSource
from ivr_dist.data.pack import pack


@contextmanager
def disk_of(size: str, place: Path) -> Iterator[Path]:
    """A disk of its own."""
    place.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two megabytes."""
    with disk_of("2m", tmp_path / "disk") as place:
        yield place


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


def test_what_is_not_worth_a_run_does_not_end_it(tmp_path: Path) -> None:
    """Curves on a full disk and signs of life that cannot be written: a note, and the run is trained to its end."""
    pack(SynthSource(samples=120, seed=4), str(tmp_path / "corpus"))
    run = tmp_path / "run"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"run: {{dir: {run}, num_workers: 0}}\n"
        f"data: {{train: {tmp_path}/corpus/train}}\n"
        "model: {hidden: 32}\n"
        "loss: {consistency: {group: 16}}\n"
        "train: {global_batch: 32, max_steps: 12, select: last}\n"
        "log: {every: 1}\n"
    )
    run.mkdir()
    (run / "pulse").write_text("a file where the folder should be")
    command = [sys.executable, "-m", "ivr_dist", "train", str(config)]
    with disk_of("4k", run / "tensorboard") as full:
        (full / "ballast").write_bytes(b"x" * 4096)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("TensorBoard's curves cannot be written now, training goes on: No space left") == 1
    assert done.stdout.count("some points of TensorBoard's curves could not be written") == 1
