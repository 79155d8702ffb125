"""`ivr-dist config`: lists, explanations, schema and effective configs, and refused arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ivr_dist.cli.main import main
from ivr_dist.config.loading import load_config
from tests.repository import ROOT

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["config", *arguments]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_without_arguments_it_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    assert "train.lr = 0.001" in text and "Peak learning rate of AdamW." in text and "deepspeed = {}" in text


def test_keys_and_sections_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "train.lr", "loss.svr")
    assert "train.lr   a number, above 0; default 0.001" in text
    assert "In a run that has begun: may change until the run is finished." in text
    assert "\n\nloss.svr: " in text and "loss.svr.warmup = 0.0" in text


def test_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert "train.grad_clip = 1.0" in printed(capsys, "--search", "clipping")


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, "--schema"))["properties"]["train"]["properties"]["lr"]["exclusiveMinimum"] == 0


def test_the_effective_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = printed(capsys, "--effective", QUICKSTART, "train.lr=3e-4")
    assert "lr: 0.0003  # override 'train.lr=3e-4'" in text and f"# {QUICKSTART}:" in text
    (tmp_path / "effective.yaml").write_text(text)
    assert load_config(str(tmp_path / "effective.yaml")) == load_config(QUICKSTART, ["train.lr=3e-4"])


def test_a_config_of_defaults(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(printed(capsys, "--yaml"))
    assert load_config(str(tmp_path / "all.yaml"), ["data.train=d", "train.select=last"]).train.lr == 1e-3


def test_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--markdown") == (ROOT / "docs" / "config.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train.learning_rate"], "unknown key train.learning_rate; did you mean train.lr?"),
        (["train.lr", "trian"], "unknown key trian; did you mean train"),
        (["--schema", "--yaml"], "--schema and --yaml cannot be given together"),
        (["--schema", "train.lr"], "--schema and KEY train.lr cannot be given together"),
        (["--search", "xyzzy"], "no key"),
        (["--search", ""], "no key has to do with ''"),
        (["--effective", ""], "the path of the config file is empty"),
        (["--effective"], "requires an argument; see ivr-dist config --help"),
        (["train.lr=3"], "train.lr=3 sets a value; give the key alone, train.lr"),
        ([""], "unknown key ''"),
        (["--effective", "nowhere.yaml"], "no such config file"),
        (["--effective", QUICKSTART, "train.lrr=1"], "did you mean train.lr?"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], text: str) -> None:
    assert main(["config", *arguments]) == 2
    shown = capsys.readouterr()
    assert text in shown.err and shown.out == ""
