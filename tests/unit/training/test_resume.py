"""`run.resume`: a checkpoint of the run, of another run, or none."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.reshape import reshape
from ivr_dist.config import Config, DataConfig, RunConfig
from ivr_dist.errors import CheckpointError, UserError
from ivr_dist.training import resume
from tests.states import small_state, stored_state


def place(config: Config, url: Path) -> resume.Resume:
    config = replace(config, run=replace(config.run, resume=str(url)))
    return resume.find(config, config.run.dir, small_state(0), attempts_before=0)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(run=RunConfig(dir=str(tmp_path / "run")), data=DataConfig(train=str(tmp_path)))


def test_the_runs_own_checkpoint_has_many_names(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for another run's, it would leave the steps before it without an attempt, and the best one forgotten."""
    monkeypatch.setattr(resume, "_checked", lambda source, _here: source)
    for run in ("run", "other"):
        url = store.CheckpointName(4, 3).url(str(tmp_path / run))
        store.write_part(url, 0, 1, {store.STATE: [json.dumps(stored_state(4)).encode()]}, [])
    (tmp_path / "link").symlink_to(tmp_path / "run", target_is_directory=True)
    name = os.path.join("checkpoints", "step-00000004.a03")
    assert place(config, tmp_path / "run" / name).parent == 3
    assert place(config, tmp_path / "link" / name).parent == 3
    assert place(config, tmp_path / "other" / name).parent is None


def test_a_folder_that_is_no_checkpoint_is_called_so(config: Config, tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "run" / "run.json"), "{}")
    storage.write_text(str(tmp_path / "run" / "checkpoints" / "x" / "y"), "")
    for url in (tmp_path / "run", tmp_path / "run" / "checkpoints", tmp_path / "nothing"):
        with pytest.raises(UserError, match=r"there is no checkpoint .*step-NNNNNNNN"):
            place(config, url)


def test_so_it_is_by_reshape(config: Config, tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "run" / "run.json"), "{}")
    with pytest.raises(CheckpointError, match=r"no checkpoint here .*step-NNNNNNNN"):
        reshape(str(tmp_path / "run"), str(tmp_path / "out"), 2)
