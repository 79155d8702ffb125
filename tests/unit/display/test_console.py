"""The console of a run: the lines of events, and their log records."""

from __future__ import annotations

import io
import logging

import pytest

from ivr_dist.display.console import LocalConsole, render
from ivr_dist.run.events import AttemptStarted, Note, RunEnded


def test_a_note_of_several_workers_is_printed_once() -> None:
    stream = io.StringIO()
    console = LocalConsole(stream)
    for text in ("cut", "cut", "other", "cut"):
        console.emit(Note(text))
    assert stream.getvalue().splitlines() == ["cut", "other"]


def test_every_event_is_logged_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    console = LocalConsole(io.StringIO())
    console.emit(Note("cut"))
    console.emit(RunEnded("finished"))
    assert [record.__dict__["event"] for record in caplog.records] == [
        {"kind": "note", "text": "cut"},
        {"kind": "ended", "how": "finished"},
    ]
    assert console.how == "finished"


@pytest.mark.parametrize(("world", "workers"), [(1, "1 worker,"), (3, "3 workers,")])
def test_the_line_of_an_attempt(world: int, workers: str) -> None:
    event = AttemptStarted(attempt=2, step=0, total_steps=9, world=world, stage=1, parameters=1234)
    line = f"attempt 2: {workers} ZeRO 1, 1,234 parameters, training from scratch to step 9"
    assert render(event) == line
