"""Errors of the system and of libraries become one line, with a remedy if one is known."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.cli import main as cli
from ivr_dist.common.library_errors import LONGEST, describe, explained, first_sentence, last_words, named, remedy_for
from ivr_dist.errors import DataError, IvrError, StorageError, WorkerError

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 12.06 MiB is "
    "free. Process 1 has 3 GiB memory in use. Of the allocated memory 1 GiB is allocated by PyTorch, and 5 GiB is "
    "reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting X to avoid "
    "fragmentation.  See documentation for Memory Management  (https://pytorch.org/docs)"
)
STACK = (
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported.\n"
    "Exception raised from c10_cuda_check at CUDAException.cpp:44 (most recent call first):\nframe #0: c10::Error"
)
DUMP = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: _Channel\n\tactor_id: 3af\n\tpid: 77\n"
    "\tip: 10.0.0.1\nThe actor is dead because its worker process has died."
)
REMOTE = (
    '\x1b[36mray::f()\x1b[39m (pid=7, ip=10.0.0.1)\n  File "a.py", line 3, in f\n    g()\nTraceback (most recent call '
    'last):\n  File "b.py", line 4, in g\n    x\n    ^\nValueError: it is wrong\n\nduring more'
)


def raised(work: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        work()
    return caught.value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (STACK, "CUDA error: an illegal memory access was encountered"),
        (DUMP, "The actor died unexpectedly before finishing this task"),
        (REMOTE, "ValueError: it is wrong"),
        ("Parameter validation failed:\nInvalid bucket name\n", "Parameter validation failed: Invalid bucket name"),
        ("[../gloo/pair.cc:534] Connection closed by peer [1.2.3.4]:5", "Connection closed by peer [1.2.3.4]:5"),
        ("404, url='http://me:word@host/x?X-Sig=1&y=2'", "404, url='http://***@host/x'"),
        ("what?", "what?"),
        ("a:", "a:"),
        (" \n\n", ""),
        ("", ""),
    ],
)
def test_the_first_sentence(text: str, line: str) -> None:
    assert first_sentence(text) == line


def test_a_long_text_ends_with_a_sentence() -> None:
    said = first_sentence(CUDA)
    assert said.startswith("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0") and len(said) <= LONGEST
    assert CUDA.startswith(f"{said}.")


@given(st.text(max_size=600), st.integers(20, 300))
def test_any_text_is_one_short_plain_line(text: str, most: int) -> None:
    for said in (first_sentence(text, most), last_words(text, most), describe(RuntimeError(text), most)):
        assert len(said) <= most + 1 and said.isprintable()


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: os.stat("/no/such/file"), "No such file or directory (/no/such/file)"),
        (lambda: os.rename(b"/no/a", b"/no/b"), "No such file or directory (/no/a to /no/b)"),
        (lambda: torch.zeros(2, 3) @ torch.zeros(2, 3), "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
        (
            lambda: torch.nn.Linear(2, 3).load_state_dict({"weight": torch.zeros(3, 2)}),
            'Error(s) in loading state_dict for Linear: Missing key(s) in state_dict: "bias"',
        ),
        (lambda: yaml.safe_load("a: [b\nc: d"), "ParserError: expected ',' or ']', but got ':'"),
        (lambda: json.loads("{"), "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (lambda: {}["a"], "KeyError: 'a'"),
        (lambda: h5py.File(__file__), "Unable to synchronously open file (file signature not found)"),
        (
            lambda: int([]),
            "TypeError: int() argument must be a string, a bytes-like object or a real number, not 'list'",
        ),  # type: ignore[call-overload]
        (lambda: _raise(TimeoutError()), "timed out"),
        (lambda: _raise(MemoryError()), "out of memory"),
        (lambda: _raise(RuntimeError()), "RuntimeError"),
        (
            lambda: _raise(ExceptionGroup("two", [OSError(errno.EIO, "Input/output error"), ValueError()])),
            "Input/output error",
        ),
        (lambda: _raise(DataError("no\nshards", where="x", remedy="pack it")), "no shards (x); pack it"),
    ],
)
def test_an_exception_in_one_line(work: Callable[[], Any], said: str) -> None:
    assert describe(raised(work)) == said


def _raise(error: BaseException) -> None:
    raise error


def test_the_cause_behind_wrappers_counts() -> None:
    class Wrapped(Exception):
        def __init__(self, **inside: Any) -> None:
            super().__init__("a page of text")
            self.__dict__ |= inside

    cause = DataError("no shards", where="x")
    other = Wrapped(cause=RuntimeError("lost the others"))
    assert explained(Wrapped(worker_failures={0: other, 1: Wrapped(cause=cause)})) is cause
    assert describe(Wrapped(controller_failure=Wrapped(cause=ValueError("inner")))) == "inner"
    circle = Wrapped()
    circle.cause = circle  # type: ignore[attr-defined]
    assert describe(circle) == "Wrapped: a page of text"
    assert describe(None) == "unknown"


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_is_explained(number: int) -> None:
    error = OSError(number, os.strerror(number), "/some/file")
    found = explained(error)
    assert isinstance(found, StorageError) and found.where == "/some/file"
    assert found.what.lower() == os.strerror(number).lower()


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError(CUDA), "train.max_micro_batch"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (MemoryError(), "free some memory"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "network"),
    ],
)
def test_what_the_environment_does_is_no_internal_error(error: BaseException, remedy: str) -> None:
    found = explained(error)
    assert isinstance(found, IvrError) and remedy in found.remedy == remedy_for(error)


def test_a_fault_of_the_program_stays_one() -> None:
    for error in (KeyError("x"), RuntimeError("shapes"), AssertionError(), OSError("HDF5's own")):
        assert explained(error) is None
    assert named(RuntimeError("shapes")) == "RuntimeError: shapes" and named(AssertionError()) == "AssertionError"


def test_errors_of_ray() -> None:
    import ray.exceptions

    error = ray.exceptions.RayActorError("0" * 16, DUMP)
    found = explained(error)
    assert isinstance(found, WorkerError) and "class_name" not in str(found) and "doctor" in found.remedy
    inner = DataError("no shards", where="x")
    wrapped = ray.exceptions.RayTaskError("f", REMOTE, inner).as_instanceof_cause()
    assert str(explained(wrapped)) == str(inner)
    assert describe(ray.exceptions.RayTaskError("f", REMOTE, ValueError("it is wrong"))) == "it is wrong"


def test_what_a_program_wrote_last(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import nothing_here"], capture_output=True, text=True, check=False)
    assert last_words(done.stderr) == "ModuleNotFoundError: No module named 'nothing_here'"
    assert last_words("one\ntwo\n\n") == "two" and last_words("") == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x"), "no space left on device (/x); free some space there"),
        (RuntimeError(CUDA), "CUDA out of memory. Tried to allocate 20.00 GiB."),
        (
            RuntimeError(STACK),
            "internal error: RuntimeError: CUDA error: an illegal memory access was encountered; run",
        ),
    ],
)
def test_the_command_line_tells_it(
    error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", lambda *_, **__: _raise(error))
    assert cli.main(["train", "x.yaml"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}") and len(said.splitlines()) == 1
    assert cli.main(["train", "x.yaml", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
