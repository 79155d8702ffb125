"""The command line: help, exit codes, one-line errors, no heavy imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from ivr_dist.cli import main as cli
from ivr_dist.errors import DataError, StorageError
from tests.repository import ROOT

COMMANDS = (
    "train",
    "plan",
    "card",
    "pack",
    "index",
    "verify",
    "inspect",
    "synth",
    "evaluate",
    "submit",
    "status",
    "stop",
    "audit",
    "doctor",
    "reshape",
    "parity",
    "import-release",
)


HEAVY = ("torch", "ray", "deepspeed", "numpy", "fsspec", "yaml", "rich", "jinja2", "ivr_dist.config")


def run(*arguments: str, cwd: Path = ROOT, env: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    environment = {**env, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, "-m", "ivr_dist", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_has_every_command_and_examples() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in done.stdout] == []
    headings = re.findall(r"^(\w[\w ]+):$", done.stdout, re.MULTILINE)
    assert {"Training", "Data", "Runs", "Released code"} <= set(headings)
    examples = done.stdout.split("Examples:")[1]
    for line in ("ivr-dist train configs/quickstart.yaml\n", "ivr-dist synth --out data/quickstart\n"):
        assert line in examples
    assert run().stdout == done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"ivr-dist {command} " in done.stdout.split("Example")[1]
    assert "--debug" in done.stdout


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ivr_dist.cli.main import main; code = main(['--help'])\n"
        f"print(code, [name for name in {HEAVY} if name in sys.modules])"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "train"),
        (["train"], "CONFIG"),
        (["train", "x.yaml", "--nope"], "--nope"),
        (["train", "does-not-exist.yaml"], "does-not-exist.yaml"),
        (["plan", "does-not-exist.yaml", "--world-sizes", "1,two"], "does-not-exist.yaml"),
        (["synth", "--out", "x", "--samples", "many"], "--samples"),
        (["audit", "no/such/run"], "no/such/run"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_unknown_key_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("train:\n  learning_rate: 1\n")
    done = run("train", "run.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "run.yaml" in done.stderr and "learning_rate" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "run.yaml"]


def test_errors_become_their_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(error: BaseException) -> int:
        def app(*_: object, **__: object) -> int:
            raise error

        monkeypatch.setattr(cli, "app", app)
        return cli.main(["train", "x.yaml"])

    assert failing(DataError("no shards", where="data/x", remedy="pack it")) == 2
    assert capsys.readouterr().err == "error: no shards (data/x); pack it\n"
    assert failing(StorageError("no space left", where="/tmp/x")) == 1
    assert failing(KeyboardInterrupt()) == 130
    capsys.readouterr()
    assert failing(ZeroDivisionError("division by zero")) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: internal error: ZeroDivisionError: division by zero")
    assert "--debug" in said and len(said.splitlines()) == 1


def test_debug_shows_the_traceback() -> None:
    plain, debug = run("audit", "no/such/run"), run("audit", "no/such/run", "--debug")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr and "audit.py" in debug.stderr
    assert plain.returncode == debug.returncode == 2


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, __import__("ivr_dist").__version__)


def test_synth_packs_a_corpus_and_plan_reads_it(tmp_path: Path) -> None:
    done = run("synth", "--out", "data", "--samples", "300", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert sum(split["samples"] for split in summary["splits"]) == 300
    again = run("synth", "--out", "tokens", "--samples", "20", "--text", "tokens", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "tokens/train/manifest.json").read_text())["features"]["text"]["kind"] == "tokens"
    (tmp_path / "run.yaml").write_text(
        "data: {train: data/train, valid: data/valid}\ntrain: {global_batch: 64}\nrun: {num_workers: 2}\n"
    )
    plans = run("plan", "run.yaml", "--world-sizes", "1,4", "--json", cwd=tmp_path)
    assert plans.returncode == 0, plans.stderr
    one, four = json.loads(plans.stdout)
    assert (one["world"], one["micro_batch"]) == (1, 64)
    assert (four["world"], four["micro_batch"]) == (4, 16)
    assert one["total_steps"] == four["total_steps"]
    table = run("plan", "run.yaml", "--world-sizes", "1,4", cwd=tmp_path)
    assert "16" in table.stdout and "workers" in table.stdout
    assert table.stdout.count("checkpoint size") == 1 and table.stdout.count("cosine") == 1, "what does not differ"
    assert max(map(len, table.stdout.splitlines())) < 120
    dry = run("train", "run.yaml", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0 and "training samples" in dry.stdout
    assert not (tmp_path / "runs").exists()


def test_index_makes_foreign_tars_a_split(tmp_path: Path) -> None:
    assert run("synth", "--out", "data", "--samples", "60", cwd=tmp_path).returncode == 0
    for path in (tmp_path / "data" / "train").iterdir():
        if path.suffix != ".tar":
            path.unlink()
    done = run("index", "data/train", "--corpus", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data/train: 42 samples in 1 shards" in done.stdout
    manifest = json.loads((tmp_path / "data" / "train" / "manifest.json").read_text())
    assert (manifest["corpus"], manifest["split"], manifest["samples"]) == ("mine", "train", 42)
    refused = run("index", "data/train", "--corpus", "mine", "--scale", "likert", cwd=tmp_path)
    assert refused.returncode == 2 and "use one of mosi" in refused.stderr


def test_jobs_and_ray_exclude_each_other(tmp_path: Path) -> None:
    done = run("synth", "--out", "data", "--samples", "30", "--jobs", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    refused = run("synth", "--out", "data", "--ray", cwd=tmp_path, env=environment)
    assert refused.returncode == 2 and "set RAY_ADDRESS" in refused.stderr
    refused = run("index", "data/train", "--corpus", "c", "--ray", "--jobs", "2", cwd=tmp_path)
    assert refused.returncode == 2 and "give one of them" in refused.stderr
