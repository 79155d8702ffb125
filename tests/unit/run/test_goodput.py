"""Goodput: every second of a run belongs to one part, over all attempts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.errors import UserError
from ivr_dist.inspection.status import status
from ivr_dist.run.attempts import allocate
from ivr_dist.run.goodput import PARTS, AttemptTimes, Stopwatch, account, rows
from ivr_dist.run.heartbeat import Heartbeat, attempt_times, read_heartbeats


def life(began: float, seen: float, ended: bool = False, parent: int | None = None, **spent: float) -> AttemptTimes:
    forked = {part.removeprefix("forked_"): value for part, value in spent.items() if part.startswith("forked_")}
    seconds = {part: value for part, value in spent.items() if not part.startswith("forked_")}
    return AttemptTimes(began, seen, seconds, ended, forked, parent)


def test_a_run_in_one_piece() -> None:
    parts = account({1: life(100, 160, True, training=40, data=5, evaluation=3, starting=12)})
    assert parts == {
        "training": 40,
        "data": 5,
        "checkpoint": 0,
        "evaluation": 3,
        "starting": 12,
        "redone": 0,
        "restarting": 0,
    }


def test_what_a_kill_costs() -> None:
    """Ten seconds were trained after the checkpoint, two of them unnamed, and five passed until the next attempt."""
    first = life(0, 50, training=38, data=2, starting=8)
    second = life(55, 90, True, parent=1, training=25, starting=10, forked_training=30, forked_data=2)
    parts = account({1: first, 2: second})
    assert parts["redone"] == 10
    assert parts["training"] == 30 + 25
    assert parts["restarting"] == 5
    assert sum(parts.values()) == 90


def test_attempts_that_led_nowhere_are_redone_as_a_whole() -> None:
    first = life(0, 50, training=40, starting=10)
    second = life(52, 70, parent=1, training=10, starting=8, forked_training=30)
    third = life(75, 100, True, parent=1, training=15, starting=10, forked_training=30)
    parts = account({1: first, 2: second, 3: third})
    assert parts["redone"] == 10 + 10
    assert parts["restarting"] == 2 + 5
    assert sum(parts.values()) == 100


def test_pauses_that_the_user_made_do_not_count() -> None:
    first = life(0, 50, True, training=40, starting=10)
    second = life(1000, 1020, True, parent=1, training=20, forked_training=40)
    assert sum(account({1: first, 2: second}).values()) == 70


@given(st.lists(st.tuples(*[st.floats(0, 50)] * 4, st.floats(0, 1)), min_size=1, max_size=6))
def test_the_parts_add_up(history: list[tuple[float, float, float, float, float]]) -> None:
    lived: dict[int, AttemptTimes] = {}
    clock = 0.0
    for number, (training, data, unnamed, gap, share) in enumerate(history, 1):
        seconds = {"training": training, "data": data}
        before = lived.get(number - 1)
        forked = {part: value * share for part, value in before.seconds.items()} if before else {}
        seen = clock + training + data + unnamed
        lived[number] = AttemptTimes(clock, seen, seconds, False, forked, number - 1 if before else None)
        clock = seen + gap
    parts = account(lived)
    assert sum(parts.values()) == pytest.approx(lived[len(history)].seen, abs=1e-6)
    assert all(value >= -1e-9 for value in parts.values())
    assert parts.keys() == set(PARTS)


def test_the_stopwatch_names_everything() -> None:
    watch = Stopwatch(time.time() - 3.0)
    assert watch.fresh
    time.sleep(0.05)
    watch.lap("starting")
    assert watch.fresh
    time.sleep(0.05)
    watch.lap("training")
    assert not watch.fresh
    assert watch.last("training") == pytest.approx(0.05, abs=0.04)
    assert watch.seconds()["starting"] == pytest.approx(3.05, abs=0.1)
    assert sum(watch.seconds().values()) == pytest.approx(time.time() - watch.began, abs=0.1)


def test_the_table_names_the_share() -> None:
    table = dict(rows(account({1: life(0, 100, True, training=80, checkpoint=20)})))
    assert table == {"goodput": "80.0% of 100.0 s trained steps that count", "checkpoint": "20.0 s"}
    assert rows(account({})) == []


def pulse(run: Path, attempt: int, **now: object) -> Heartbeat:
    fixed = {"attempt": attempt, "parent": None, "world": 2, "stage": 1, "host": "h", "pid": 7, "forked": {}}
    sample = {"step": 3, "total_steps": 10, "checkpoint": "", "seconds": {"training": 1.0}, "epoch": 0.3, "loss": 2.0}
    return Heartbeat(
        str(run), attempt, {**fixed, "began": time.time() - 2.0}, lambda: {**sample, "samples_per_s": 5.0, **now}
    )


def test_status_follows_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run here"):
        status(str(tmp_path))
    allocate(str(tmp_path), parent=None, step=0, stage=1, steps_per_epoch=5, workers=["h:7", "h:8"])
    assert status(str(tmp_path)).state == "silent"
    sign = pulse(tmp_path, 1)
    deadline = time.monotonic() + 10
    while not read_heartbeats(str(tmp_path)):
        assert time.monotonic() < deadline
    found = status(str(tmp_path))
    assert (found.state, found.step, found.world, found.checkpoint) == ("training", 3, 2, None)
    assert ("step", "3 of 10, epoch 0.30") in found.rows()
    silent = status(str(tmp_path), now=time.time() + 100)
    assert silent.state == "silent"
    assert "no heartbeat" in dict(silent.rows())["state"]
    sign.close("finished")
    ended = status(str(tmp_path), now=time.time() + 100)
    assert ended.state == "finished"
    assert sum(ended.goodput.values()) == pytest.approx(2.0, abs=1.0)
    assert attempt_times(read_heartbeats(str(tmp_path)), first=2) == {}
    assert storage.list_dir(str(tmp_path / "pulse")) == ["0001.json"]


PULSE = {
    "began": 1.0,
    "seen": 2.0,
    "seconds": {"training": 1.0, "of a later version": 3.0},
    "forked": {},
    "how": "",
    "ended": False,
    "step": 1,
    "loss": 0.5,
    "samples_per_s": 1.0,
    "world": 1,
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0002.json.swp", "{}"),
        (".DS_Store", ""),
        ("copy of 0001.json", json.dumps(PULSE)),
        ("x.json", "{}"),
        ("0002.json", '{"began": 1'),
        ("0002.json", "[]"),
        ("0002.json", "{}"),
        ("0002.json", json.dumps({**PULSE, "loss": "low"})),
        ("0002.json", json.dumps({**PULSE, "seconds": {"training": None}})),
        ("0002.json", json.dumps({**PULSE, "seen": "now"})),
    ],
)
def test_foreign_and_damaged_heartbeats_are_ignored(name: str, content: str, tmp_path: Path) -> None:
    allocate(str(tmp_path), parent=None, step=0, stage=0, steps_per_epoch=3, workers=["a"])
    storage.write_text(f"{tmp_path}/pulse/0001.json", json.dumps(PULSE))
    (tmp_path / "pulse" / name).write_text(content)
    assert read_heartbeats(str(tmp_path)) == {1: PULSE}
    assert dict(status(str(tmp_path)).rows())["step"] == "1 of None"


def test_a_last_sign_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "pulse").write_text("a file where the folder should be")
    Heartbeat(str(tmp_path), 1, {}, dict).close("finished")
