"""A command whose streams are closed, full or without a reader continues, and ends with the right exit code."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ivr_dist.cli.standard_streams import Output, lasting_streams
from ivr_dist.orchestration.stop_signals import stop_signals
from tests.repository import ROOT

CODE = "import sys; from ivr_dist.cli.main import main; sys.exit(main(sys.argv[1:]))"
# A command that prints long lines and tables, and imports little.
TALKS = (
    "import sys, types; from ivr_dist.cli import main as cli; from ivr_dist.display import tables\n"
    "from ivr_dist.display.plain_output import say\n"
    "def app(*_, **__):\n"
    "    for _ in range(4000): say('x' * 60)\n"
    "    tables.print_rows([('a', '\\u6587')], sys.stdout); tables.print_table(('h',), [('\\ud800',)], sys.stdout)\n"
    "    print('{}', flush=True); say('note', sys.stderr)\n"
    "    return int(sys.argv[1])\n"
    "cli.app = app; sys.exit(cli.main([*sys.argv[2:], 'x']))"
)

LOGGED = ["--log-level", "info", "--log-json", "train", "train"]


def shell(code: str, redirect: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_command_works_without_stdout() -> None:
    done = shell(TALKS, ">&-", "1")
    assert (done.returncode, done.stderr) == (1, "note\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [(["inspect"], 1), (["train"], 0), (["train", "--json"], 1), (LOGGED, 0), (["status", "train"], 1)],
)
def test_a_full_disk_behind_stdout_is_reported_in_one_line(command: list[str], code: int) -> None:
    """The effects of a run count; output that was only to be printed is lost."""
    done = shell(TALKS, ">/dev/full", "0", *command)
    assert done.returncode == code
    note, error = done.stderr.splitlines()
    assert note == "note" and error.startswith("error: stdout could not be written: No space left on device; free")


def test_a_reader_that_exits_is_no_error() -> None:
    command = ["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "bash", sys.executable, "-c", TALKS, "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x" * 60 + "\n", "note\n")


@pytest.mark.parametrize("redirect", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_lost_errors_do_not_change_the_exit_code(redirect: str) -> None:
    assert shell(TALKS, redirect, "2").returncode == 2


def test_errors_go_to_stderr_only() -> None:
    done = shell(CODE, "2>&-", "inspect", "/no/such/place")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_locale_without_unicode_is_enough() -> None:
    done = shell(TALKS, "", "0", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert r"\u6587" in done.stdout and r"\ud800" in done.stdout


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "from ivr_dist.cli.standard_streams import lasting_streams\n"
        f"with lasting_streams(), open({str(tmp_path / 'data')!r}, 'wb') as file:\n"
        "    assert file.fileno() > 2\n"
        "    os.write(1, b'lost'); subprocess.run(['echo', 'lost too'], check=True)\n"
    )
    assert shell(code, "<&- >&-").returncode == 0
    assert (tmp_path / "data").read_bytes() == b""


def test_a_closed_terminal_is_a_reader_that_has_exited() -> None:
    ours, theirs = pty.openpty()
    output = Output(theirs)
    assert output.isatty() and output.write(b"seen\n") == 5 and os.read(ours, 10).startswith(b"seen")
    os.close(ours)
    assert output.write(b"lost\n") == 5 and output.error is None
    os.close(theirs)


def test_a_terminal_that_hangs_up_asks_for_a_checkpoint_unless_nohup_has_it_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    stop = threading.Event()
    with stop_signals(stop) as received:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.is_set() and received.code == 129
    assert signal.getsignal(signal.SIGHUP) is before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals(threading.Event()) as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received.code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_non_blocking_pipe_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    output, data = Output(writer), b"x" * 300_000
    child = subprocess.Popen(["wc", "-c"], stdin=reader, stdout=subprocess.PIPE)
    os.close(reader)
    assert output.write(data) == len(data) and output.error is None
    os.close(writer)
    assert child.communicate()[0].split() == [b"300000"]


def test_replaced_streams_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = (sys.stdout, sys.stderr)
    with lasting_streams() as out:
        assert out is None and (sys.stdout, sys.stderr) == before
    assert (sys.stdout, sys.stderr) == before


def test_lines_of_both_streams_keep_their_order() -> None:
    code = (
        "import sys\n"
        "from ivr_dist.cli.standard_streams import lasting_streams\n"
        "with lasting_streams():\n"
        "    print('one', file=sys.stderr)\n"
        "    print('two', flush=True)\n"
        "    print('three', file=sys.stderr)\n"
        "    print('four', flush=True)\n"
    )
    assert shell(code, "2>&1").stdout.split() == ["one", "two", "three", "four"]
