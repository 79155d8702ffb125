"""Watches a training command while faults are injected, and measures their cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ivr_dist.checkpoint import store
from ivr_dist.errors import IvrError
from ivr_dist.inspection.audit import audit
from ivr_dist.run.attempts import read_attempts
from ivr_dist.run.results import loss_curve

LIMIT_S = 240.0
RESULTS = Path(os.environ.get("IVR_DIST_DRILL_RESULTS", "/tmp/ivr-drill.jsonl"))
"""A line of JSON for each drill."""


def overrides(corpus: str, run: Path, *more: str) -> list[str]:
    """Some 30 s of training on two workers, with every loss term, dropout off so that sizes may change."""
    return [
        f"data.train={corpus}/train",
        f"run.dir={run}",
        "run.num_workers=2",
        "model.hidden=48",
        "model.dropout=0",
        "train.select=last",
        "train.global_batch=32",
        "loss.consistency.group=16",
        "train.max_steps=400",
        "checkpoint.every=20steps",
        "log.console_s=0.2",
        "log.svr_every=0",
        *more,
    ]


@dataclass
class Watched:
    """A command and its lines, each with the time at which it came."""

    process: subprocess.Popen[str]
    started: float
    lines: list[tuple[float, str]] = field(default_factory=list)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Until `condition` holds; fails with the output when the command ends before."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{what}: ended with {self.process.poll()}\n{self.text()}")
            time.sleep(0.02)

    def finish(self) -> int:
        """The exit code."""
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"the run hangs:\n{self.text()}")
        time.sleep(0.2)
        return code

    def text(self) -> str:
        """All lines."""
        return "\n".join(f"{when - self.started:7.2f} {line}" for when, line in self.lines)

    def first(self, beginning: str, after: float) -> float | None:
        """When the first line that begins so came after a moment."""
        return next((when for when, line in list(self.lines) if when > after and line.startswith(beginning)), None)


def start(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Watched:
    """Run a command and read its lines on a thread."""
    process = subprocess.Popen(
        words,
        env=clean(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    watched = Watched(process, time.time())

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            watched.lines.append((time.time(), line.rstrip()))

    threading.Thread(target=read, daemon=True).start()
    return watched


def clean(more: Mapping[str, str]) -> dict[str, str]:
    """The environment without anyone else's cluster."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("RAY_")}, **more}


def train_words(given: Sequence[str]) -> list[str]:
    """The command that trains, with a config file as a user has one."""
    from ivr_dist.config.loading import load_config
    from ivr_dist.config.yaml_writer import to_yaml

    run = next(text.partition("=")[2] for text in given if text.startswith("run.dir="))
    path = Path(run).with_suffix(".yaml")
    path.write_text(to_yaml(load_config(None, given)))
    return [sys.executable, "-m", "ivr_dist", "train", str(path)]


def saved(run: Path, step: int) -> Callable[[], bool]:
    """Whether a checkpoint of so many steps is complete."""

    def look() -> bool:
        for name in store.names(str(run)):
            try:
                if name.step >= step and store.parts(name.url(str(run))):
                    return True
            except IvrError:
                continue
        return False

    return look


def conclude(
    name: str,
    run: Path,
    watched: Watched,
    hurt: float,
    reference: Sequence[tuple[int, float]],
    earlier: Watched | None = None,
) -> None:
    """Check that the run came to its end with nothing lost and nothing twice, and note what the fault cost.

    Args:
        name: Of the drill.
        run: The run's directory.
        watched: The command that ends it.
        hurt: Unix time of the fault.
        reference: Losses without it.
        earlier: The command that the fault ended, if it did.
    """
    code = watched.finish()
    before = [entry for entry in (earlier or watched).lines if entry[0] < hurt]
    assert code == 0, watched.text()
    curve = loss_curve(str(run))
    assert [step for step, _ in curve] == [step for step, _ in reference]
    attempts = read_attempts(str(run))
    # On another number of workers the rounding differs, and some sixty steps make a thousandth of it.
    same = {attempt.world for attempt in attempts} == {2}
    pairs = list(zip(curve, reference, strict=True))[: None if same else 20]
    off = max(abs(loss - other) / abs(other) for (_, loss), (_, other) in pairs)
    assert off <= (0.0 if same else 1e-6), f"losses differ by {off:.1e}"
    report = audit(str(run))
    assert report.ok
    lost = watched.first("lost worker", hurt)
    again = watched.first("attempt ", hurt)
    stepped = None if again is None else watched.first("step ", again)
    # The last line of a step before the fault; lines come every fifth of a second.
    reached = [int(line.split()[1].partition("/")[0]) for when, line in before if line.startswith("step ")]
    redone = max(max(reached, default=0) - attempts[1].step, 0) if len(attempts) > 1 else 0
    note(
        name,
        detected_s=None if lost is None else round(lost - hurt, 1),
        training_again_s=None if stepped is None else round(stepped - hurt, 1),
        steps_redone=redone,
        attempts=len(attempts),
        difference=off,
    )


def note(name: str, **figures: object) -> None:
    """Print the outcome, and add it to the results."""
    print(f"\n{name}: {figures}")
    with RESULTS.open("a") as file:
        file.write(json.dumps({"drill": name, **figures}) + "\n")
