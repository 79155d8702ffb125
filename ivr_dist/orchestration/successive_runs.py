"""Trains several runs of one config, one after the other, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TextIO

from ivr_dist import storage
from ivr_dist.config.loading import override
from ivr_dist.display.plain_output import say
from ivr_dist.inspection.existing_run import read_result


@dataclass(frozen=True)
class PlannedRun:
    """One of several runs."""

    label: str
    """What distinguishes it, such as `seed 3`."""
    run_dir: str
    overrides: Sequence[str]
    """Overrides of its own, except that of `run.dir`."""


def train_each(
    path: str, overrides: Sequence[str], runs: Sequence[PlannedRun], stream: TextIO, *, debug: bool = False
) -> tuple[int, list[dict[str, Any]] | None]:
    """Train each run; a complete one is not trained again, an interrupted one is continued.

    Args:
        path: The config file.
        overrides: Overrides of the file that all runs have.
        runs: The runs.
        stream: Destination of their output.
        debug: Print what Ray and the workers print.

    Returns:
        The exit code (0, or that of the first run that did not finish), and the results in the order of the runs; None
        if a run did not finish, which ends the others.
    """
    results = []
    for number, run in enumerate(runs, start=1):
        say(f"{run.label} ({number} of {len(runs)})", stream, flush=True)
        own = [*run.overrides, override("run.dir", run.run_dir), *(["--debug"] if debug else [])]
        code = _train([path, *overrides, *own], stream)
        result = None if code else read_result(storage.absolute(run.run_dir))
        if result is None:
            # With exit code 0 its stop file ended it.
            return code, None
        results.append(result)
    return 0, results


def _train(arguments: Sequence[str], stream: TextIO) -> int:
    """Run `ivr-dist train` with these arguments in a process of its own, and return its exit code."""
    command = [sys.executable, "-m", "ivr_dist", "train", *arguments]
    # In its own process group, so that Ctrl-C reaches it once: forwarded from here, like any other signal.
    process = subprocess.Popen(command, stdout=stream, process_group=0)
    with _signals_forwarded_to(process):
        code = process.wait()
    # For a process that a signal ended, subprocess returns the negative number, a shell 128 plus the number.
    return code if code >= 0 else 128 - code


@contextmanager
def _signals_forwarded_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Forward stop signals: the process ends after a checkpoint, or at once on the second one."""

    def forward(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
