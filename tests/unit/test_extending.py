"""docs/extending.md: its examples run, and its statements about protocols are correct."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ivr_dist.cli.main import main
from ivr_dist.model.spec import IVROutput
from ivr_dist.training.callbacks.registry import HOOKS
from tests.extending_examples import PAGE, write_examples
from tests.repository import ROOT


def test_the_page_names_every_hook_and_every_part_of_the_output() -> None:
    page = PAGE.read_text()
    assert [hook for hook in HOOKS if f"`{hook}(" not in page] == []
    assert [part for part in IVROutput.parts() if f"`{part}`" not in page] == []


def test_the_examples_keep_their_contracts(tmp_path: Path) -> None:
    written = write_examples(tmp_path)
    assert sorted(path.name for path in written) == ["clips.yaml", "late.yaml", "parts.py", "test_parts.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "mine/test_parts.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = int(done.stdout.rpartition(" passed")[0].rpartition("\n")[2])
    assert passed >= 30


def test_the_examples_source_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "samples.csv").write_text("id,split,score\none,train,0.5\ntwo,test,1\n")
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("0.1 0.2 0.3\n")
    command = ["pack", str(tmp_path), "--card", "mine/clips.yaml", "--out", str(tmp_path / "packed"), "--jobs", "1"]
    try:
        assert main(command) == 2
        assert "--trust-code" in capsys.readouterr().err
        assert main([*command, "--trust-code"]) == 0
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
            del sys.modules[name]
