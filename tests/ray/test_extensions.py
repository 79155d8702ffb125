"""Extension classes on Ray workers, which start in another directory than the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ivr_dist import storage
from tests.extending_examples import write_examples
from tests.repository import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.xdist_group("ray")]


def test_workers_import_from_the_directory_of_the_command(corpus: str, tmp_path: Path) -> None:
    write_examples(tmp_path)
    (tmp_path / "empty.yaml").write_text("")
    settings = [
        f"data.train={corpus}/train",
        f"data.valid={corpus}/valid",
        "run.dir=run",
        "run.num_workers=2",
        "model.hidden=16",
        "train.global_batch=32",
        "train.max_steps=3",
        "loss.extra={contrast: {class: mine.parts:Contrast, weight: 0.5}}",
        f"run.callbacks=[{{class: mine.parts:OnStall, file: {tmp_path}/stalls.txt, after_s: 0}}]",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Python does not look for modules in the current directory by itself, as in an installed command.
    command = [sys.executable, "-P", "-c", "from ivr_dist.cli.main import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*command, "train", "empty.yaml", *settings],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "extra loss" in done.stdout
    assert storage.read_json(str(tmp_path / "run" / "result.json"))["steps"] == 3
    assert len((tmp_path / "stalls.txt").read_text().splitlines()) == 3
