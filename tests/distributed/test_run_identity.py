"""Run identity in one process: finished, continued, moved and refused runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ivr_dist.cli.main import main
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import pack
from ivr_dist.run.attempts import read_attempts

pytestmark = pytest.mark.distributed


@pytest.fixture
def train(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """`ivr-dist train --json` of two steps: exit code, the object, and stderr; in a process of its own if it trains."""
    for split in ("train", "valid"):
        shutil.copytree(f"{corpus}/{split}", tmp_path / "data" / split)
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path}/run, num_workers: 0}}\n"
        f"data: {{train: {tmp_path}/data/train, valid: {tmp_path}/data/valid}}\n"
        "model: {hidden: 8}\n"
        "train: {global_batch: 24, max_steps: 2}\n"
    )

    def run(*arguments: str, apart: bool = False) -> tuple[int, Any, str]:
        command = ["train", str(config), "--json", *arguments]
        if apart:
            done = subprocess.run([sys.executable, "-m", "ivr_dist", *command], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return 0, json.loads(done.stdout), done.stderr
        capsys.readouterr()
        code = main(command)
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out.strip() else None, said.err

    return run


@pytest.mark.long
def test_one_directory_from_its_first_step_to_a_move(
    train: Callable[..., tuple[int, Any, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, first, said = train(apart=True)
    assert (code, first["trained"], first["modalities"]) == (0, True, ["text", "audio", "vision"])
    assert "1 x 24 slots, as it fits the batch" in said
    assert "text (32), audio (12, standardized), vision (8, standardized)" in said

    code, again, _ = train("run.num_workers=0", "log.every=3", "data.prefetch=2", "zero.stage=0")
    assert (code, again["trained"], again["metrics"]) == (0, False, first["metrics"])

    code, nothing, said = train("loss.svr.weight=0", "train.lr=1e-4")
    assert (code, nothing) == (2, None)
    assert "run is a finished run of another config: loss.svr.weight is 1 there and 0 here, train.lr is 0.001" in said

    code, nothing, said = train("train.max_steps=4", "data.standardize=[audio]")
    assert (code, nothing) == (2, None)
    assert "data.standardize is [audio, vision] there and [audio] here" in said

    _, longer, said = train("train.max_steps=4", "train.lr=1e-4", apart=True)
    assert longer["steps"] == 4
    changed = "changed        train.max_steps 2 -> 4 (the schedule is that of 4), train.lr 0.001 -> 0.0001"
    assert changed in said
    attempt = read_attempts(str(tmp_path / "run"))[-1]
    assert {key: tuple(values) for key, values in attempt.changed.items()} == {
        "train.max_steps": ("2", "4"),
        "train.lr": ("0.001", "0.0001"),
    }
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0})
    board.Reload()
    (text,) = board.Tensors("changed/text_summary")
    assert text.step == 2 and b"train.lr: 0.001 -> 0.0001" in text.tensor_proto.string_val[0]

    (tmp_path / "run" / "result.json").unlink()
    _, concluded, said = train("train.max_steps=4", "train.lr=1e-4", apart=True)
    assert (concluded["trained"], concluded["metrics"]) == (True, longer["metrics"])
    assert "nothing changed" in said
    assert read_attempts(str(tmp_path / "run"))[-1].changed == {}

    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modalities"] == ["text", "audio", "vision"]

    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "data").rename(tmp_path / "corpus")
    places = [f"data.{split}={tmp_path}/corpus/{split}" for split in ("train", "valid")]
    code, shown, said = train(f"run.dir={tmp_path}/moved", "train.max_steps=4", "train.lr=1e-4", *places)
    assert (code, shown["trained"], shown["run"]) == (0, False, f"{tmp_path}/moved")
    assert Path(shown["checkpoint"]).is_dir() and "/moved/" in shown["checkpoint"]

    # Other labels behind the same path.
    shutil.rmtree(tmp_path / "corpus")
    pack(SynthSource(samples=334, seed=2), str(tmp_path / "corpus"))
    code, nothing, said = train(f"run.dir={tmp_path}/moved", "train.max_steps=4", "train.lr=1e-4", *places)
    assert (code, nothing) == (2, None)
    assert "data.train is" in said and "data.valid is" in said and "manifest" in said
    (tmp_path / "corpus").rename(tmp_path / "data")
    assert main(["evaluate", shown["checkpoint"], "--split", "valid"]) == 2
    assert "the valid split is not that of the run" in capsys.readouterr().err
    assert main(["evaluate", shown["checkpoint"], "--shards", f"{tmp_path}/data/valid"]) == 0
