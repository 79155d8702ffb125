"""A disk that fills up during training."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.small_disks import small_disk
from tests.small_runs import train_command


def test_a_full_disk_ends_the_run_after_some_checkpoints(tmp_path: Path) -> None:
    """One line says what, where and what to do; the previous checkpoint stays complete."""
    settings = ["model.hidden=32", "train.max_steps=500"]
    settings += ["checkpoint.every=2steps", "checkpoint.keep_last=9", "checkpoint.max_failed=1"]
    with small_disk("2m", tmp_path / "disk") as place:
        command = train_command(tmp_path, place / "run", *settings)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("a checkpoint could not be written") >= 1
    assert "no space" in done.stdout.lower(), done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_failures_of_curves_and_heartbeats_do_not_end_the_run(tmp_path: Path) -> None:
    """TensorBoard on a full disk and heartbeats that cannot be written: a note, and training goes on to the end."""
    run = tmp_path / "run"
    command = train_command(tmp_path, run, "model.hidden=32", "train.max_steps=12", "log.every=1")
    run.mkdir()
    (run / "pulse").write_text("a file where the folder should be")
    with small_disk("4k", run / "tensorboard") as full:
        (full / "ballast").write_bytes(b"x" * 4096)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("TensorBoard's curves cannot be written now, training continues: No space left") == 1
    assert done.stdout.count("some points of TensorBoard's curves could not be written") == 1
