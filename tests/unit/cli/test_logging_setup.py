"""`--log-level` and `--log-json`: destinations of log records; logging never ends a command."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ivr_dist import __version__
from ivr_dist.cli import logging_setup
from ivr_dist.cli import main as cli
from ivr_dist.cli.logging_setup import FILE_VARIABLE, Level, configure, json_line, reset, set_level
from ivr_dist.runtime.environment import LOG_LEVEL, run_variables
from tests.repository import ROOT

logger = logging.getLogger("ivr_dist.some.module")


@dataclass(frozen=True)
class Saved:
    """An event of a run."""

    kind: ClassVar[str] = "checkpoint"
    name: str
    seconds: float


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (LOG_LEVEL, FILE_VARIABLE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    reset()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def log_one_of_each_level() -> None:
    for level in ("debug", "info", "warning", "error"):
        getattr(logger, level)("said %s", level)


def test_warnings_go_to_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    configure(None, None)
    log_one_of_each_level()
    err = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[2].partition(" ")[2] for line in err] == [
        "WARNING ivr_dist.some.module: said warning",
        "ERROR ivr_dist.some.module: said error",
    ]
    assert LOG_LEVEL not in os.environ


@pytest.mark.parametrize(("level", "on_stderr", "in_file"), [("ERROR", 1, 3), ("WARNING", 2, 3), ("DEBUG", 4, 4)])
def test_the_file_has_info_at_any_stderr_level(
    level: str, on_stderr: int, in_file: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"message": "of an earlier run"}\n')
    configure(Level(level), str(file))
    log_one_of_each_level()
    assert len(capsys.readouterr().err.splitlines()) == on_stderr
    found = lines(file)
    assert found[0]["message"] == "of an earlier run" and len(found) == 1 + in_file
    assert {line["logger"] for line in found[1:]} == {"ivr_dist.some.module"}
    assert found[-1]["level"] == "ERROR"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(found[-1]["time"])).total_seconds()) < 60


def test_an_event_is_an_object_with_its_fields(tmp_path: Path) -> None:
    configure(None, str(tmp_path / "log"))
    logger.info("saved", extra={"event": Saved("step-1", float("nan"))})
    logger.info("step", extra={"event": {"kind": "progress", "loss": 0.5, "slowest": (3, float("inf"))}})
    saved, step = lines(tmp_path / "log")
    assert saved["event"] == {"kind": "checkpoint", "name": "step-1", "seconds": None}
    assert step["event"] == {"kind": "progress", "loss": 0.5, "slowest": [3, None]}


def test_a_line_is_ascii_and_keeps_no_secret(tmp_path: Path) -> None:
    def record(message: str, **more: Any) -> logging.LogRecord:
        return logging.makeLogRecord({"msg": message, "name": "n", "levelname": "INFO", **more})

    line = json_line(record("a\nb \ud800 \u6587", event={"url": "s3://user:pw@bucket/x?X-Amz-Signature=1"}))
    assert line.isascii() and line.count("\n") == 1
    assert json.loads(line)["message"] == "a\nb \ud800 \u6587"
    assert json.loads(line)["event"] == {"url": "s3://***@bucket/x"}
    try:
        raise ValueError("wrong")
    except ValueError:
        failed = json.loads(json_line(record("failed", exc_info=sys.exc_info())))
    assert "ValueError: wrong" in failed["traceback"]
    assert json.loads(json_line(record("x", event=object())))["event"].startswith("<object")


@pytest.mark.parametrize("name", ["no/such/folder/log", ".", "/dev/full"])
def test_a_file_that_cannot_be_written_is_reported_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    configure(None, name)
    for _ in range(3):
        logger.info("said")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the log file cannot be written: ") and "the command continues" in line


def test_control_characters_and_secrets_do_not_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    configure(None, None)
    monkeypatch.setattr(sys, "stderr", stream)
    logger.warning("\x1b[2J http://host/x?token=secret")
    assert "\x1b" not in stream.getvalue() and "secret" not in stream.getvalue()
    monkeypatch.setattr(sys, "stderr", None)
    logger.warning("nobody reads this")


def test_a_command_leaves_logging_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "log"
    assert cli.main(["--log-level", "info", "--log-json", str(file), "audit", str(tmp_path / "nowhere")]) == 2
    root = logging.getLogger("ivr_dist")
    assert (root.handlers, root.level, root.propagate) == ([], logging.NOTSET, True)
    assert os.environ[LOG_LEVEL] == "INFO" and os.environ[FILE_VARIABLE] == str(file)
    assert run_variables(os.environ)[LOG_LEVEL] == "INFO"


def test_the_file_has_the_command_and_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log"
    assert cli.main(["--log-json", str(file), "audit", str(tmp_path / "nowhere")]) == 2
    (printed,) = capsys.readouterr().err.splitlines()
    command, error = lines(file)
    assert (command["level"], command["message"]) == ("INFO", f"ivr-dist {__version__}: audit")
    assert (error["level"], f"error: {error['message']}") == ("ERROR", printed)


def test_debug_is_the_level_debug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging_setup, "reset", lambda: None)
    assert cli.main(["audit", "no/such/run", "--debug"]) == 2
    log_one_of_each_level()
    assert "said debug" in capsys.readouterr().err
    assert os.environ[LOG_LEVEL] == "DEBUG"
    set_level("ERROR")
    log_one_of_each_level()
    assert "said warning" not in capsys.readouterr().err


def test_a_wrong_level_is_a_mistake_of_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--log-level", "loud", "audit", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "): 'loud' is not one of 'debug', 'info', 'warning', 'error'" in line


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["config", "train.lr", "--log-json", "x"], "write it before the command: ivr-dist --log-json ... config ..."),
        (["--log-json"], "Option '--log-json' requires an argument; see ivr-dist --help"),
        (["--log-json", "", "config"], "--log-json names no file"),
        (["trian"], "error: No such command 'trian'; did you mean 'train'?"),
    ],
)
def test_options_in_the_wrong_place(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line


@pytest.mark.parametrize(("level", "expected"), [("", 2), ("error", 1), ("DEBUG", 4), ("nonsense", 2)])
def test_workers_log_to_stderr_at_the_level_of_the_command(level: str, expected: int) -> None:
    code = (
        "import logging\n"
        "from ivr_dist.runtime.log_level import log_to_stderr\n"
        "log_to_stderr(); log_to_stderr()\n"
        "for level in ('debug', 'info', 'warning', 'error'): getattr(logging.getLogger('ivr_dist.x'), level)('said')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), LOG_LEVEL: level}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert len(done.stderr.splitlines()) == expected


def test_workers_log_no_passwords() -> None:
    code = (
        "import logging\n"
        "from ivr_dist.runtime.log_level import log_to_stderr\n"
        "log_to_stderr()\n"
        "try: raise OSError('no answer from https://me:pa55word@host/a?X-Amz-Signature=pa55word')\n"
        "except OSError: logging.getLogger('ivr_dist.x').warning('%s', 's3://me:pa55word@b/c', exc_info=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "s3://***@b/c" in done.stderr and "https://***@host/a" in done.stderr

    assert "pa55word" not in done.stderr


def test_several_processes_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "log"
    code = (
        "import logging, sys\n"
        "from ivr_dist.cli.logging_setup import configure\n"
        f"configure(None, {str(file)!r})\n"
        "for _ in range(500): logging.getLogger('ivr_dist.x').info('x' * 500)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert len(lines(file)) == 1500
