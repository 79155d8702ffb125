"""Events travel as JSON and come back equal; they are logged without secrets."""

from __future__ import annotations

import json
import logging
import typing

import pytest

from ivr_dist.display.console import LocalConsole
from ivr_dist.run import events
from ivr_dist.run.events import (
    AttemptStarted,
    CheckpointSaved,
    Evaluation,
    Event,
    Note,
    Phase,
    RunEnded,
    StepProgress,
    TimeSpent,
)

EVENTS: list[Event] = [
    Note("a note"),
    Phase("connecting", failures=1),
    AttemptStarted(2, 100, 400, 4, 2, 123_456),
    StepProgress(3, 10, 0.5, 1.25, 1e-3, 320.0, 0.1, 12.5, (1, 0.3)),
    StepProgress(3, 10, 0.5, 1.25, 1e-3, 320.0, 0.1, 12.5),
    Evaluation("valid", 3, {"synth/mae": 0.5, "synth/corr": None}, True),
    CheckpointSaved("step-00000003.a01", 1.5, 0.02),
    TimeSpent({"training": 10.5, "data": 0.5}, "finished"),
    RunEnded("finished"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_equal_through_json(event: Event) -> None:
    assert events.from_json(json.loads(json.dumps(events.to_json(event)))) == event


def test_every_event_has_a_kind() -> None:
    assert {type(event) for event in EVENTS} == set(typing.get_args(Event))
    assert [events.to_json(event)["kind"] for event in EVENTS][:4] == ["note", "phase", "start", "progress"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"kind": "rumour"}, "no event is of kind 'rumour'"),
        ({"kind": "note", "words": "x"}, "fields of an event are wrong"),
    ],
)
def test_invalid_events_are_refused(value: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        events.from_json(value)


def test_the_console_logs_each_event_once_and_hides_secrets(caplog: pytest.LogCaptureFixture) -> None:
    console = LocalConsole()
    with caplog.at_level(logging.INFO, logger="ivr_dist"):
        for _ in range(2):
            console.emit(Note("cannot read s3://user:hidden@host/x"))
        console.emit(TimeSpent({"training": 1.0}, ""))
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert caplog.records[0].event["kind"] == "note"  # type: ignore[attr-defined]
    assert "hidden" not in caplog.text
    assert caplog.records[1].event["parts"] == {"training": 1.0}  # type: ignore[attr-defined]
