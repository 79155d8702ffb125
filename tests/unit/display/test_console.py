"""Lines on the console."""

from __future__ import annotations

import io

from ivr_dist.display.console import LocalConsole
from ivr_dist.run.events import Note


def test_a_note_that_every_worker_makes_is_printed_once() -> None:
    stream = io.StringIO()
    console = LocalConsole(stream)
    for text in ("cut", "cut", "other", "cut"):
        console.emit(Note(text))
    assert stream.getvalue().splitlines() == ["cut", "other"]
