"""Lineage: the steps of each attempt that count."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.errors import CorruptDataError
from ivr_dist.run.attempts import Attempt, Span, allocate, lineage, read_attempts


def attempt(number: int, parent: int | None, step: int) -> Attempt:
    return Attempt(number, parent, step, world=2, stage=1, steps_per_epoch=10)


def test_damaged_records_are_reported(tmp_path: Path) -> None:
    """No lineage is made of a record that cannot be right: it would have no end, or miss steps."""
    for number in (1, 2):
        allocate(str(tmp_path), parent=number - 1 or None, step=number, stage=0, steps_per_epoch=3, workers=["host:1"])
    place = tmp_path / "attempts" / "0002.json"
    sound = json.loads(place.read_text())
    others: dict[str, list[object]] = {
        "number": [3, "2", None], "parent": [2, 7, 0, "1", True], "step": ["0", None, -5, 1.0], "world": [0, "2"],
        "steps_per_epoch": [0], "workers": [5, "host:1", [5]], "changed": [5, {"a": 1}, {"a": ["1"]}], "started": ["x"],
    }  # fmt: skip
    texts = [json.dumps(sound | {name: value}) for name, values in others.items() for value in values]
    for text in ["", "{", "[]", "null", "{}", "\ud800", *texts]:
        place.write_text(text, errors="replace")
        with pytest.raises(CorruptDataError, match=r"an attempt record cannot be read: .*0002\.json"):
            read_attempts(str(tmp_path))
    place.write_text(json.dumps(sound))
    assert [found.parent for found in read_attempts(str(tmp_path))] == [None, 1]
    (tmp_path / "attempts" / "0001.json").unlink()
    with pytest.raises(CorruptDataError, match=r"missing, and attempt 2 continues it .*0001\.json"):
        read_attempts(str(tmp_path))


def test_keys_of_later_versions_are_left_alone(tmp_path: Path) -> None:
    made = allocate(str(tmp_path), parent=None, step=0, stage=0, steps_per_epoch=3, workers=["host:1"])
    file = tmp_path / "attempts" / "0001.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "cluster": {"nodes": 2}}))
    assert read_attempts(str(tmp_path)) == [made]


def test_lineage_of_a_run_without_faults() -> None:
    assert lineage([attempt(1, None, 0)]) == [Span(1, 1, None)]


def test_an_attempt_that_died_before_its_first_checkpoint_does_not_count() -> None:
    spans = lineage([attempt(1, None, 0), attempt(2, 1, 20), attempt(3, 1, 20)])
    assert spans == [Span(1, 1, 20), Span(3, 21, None)]


def test_starting_over_supersedes_everything_before() -> None:
    assert lineage([attempt(1, None, 0), attempt(2, 1, 20), attempt(3, None, 0)]) == [Span(3, 1, None)]


def test_later_steps_of_the_parent_do_not_count() -> None:
    spans = lineage([attempt(1, None, 0), attempt(2, 1, 20)])
    assert [span.covers(20) for span in spans] == [True, False]
    assert [span.covers(21) for span in spans] == [False, True]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 50)), min_size=1, max_size=12))
def test_each_step_counts_in_exactly_one_attempt(history: list[tuple[int, int]]) -> None:
    """However attempts fork, every step from the first on belongs to one attempt and no other."""
    attempts: list[Attempt] = []
    for choice, ahead in history:
        parent = attempts[choice % len(attempts)] if attempts and choice else None
        step = parent.step + ahead if parent else 0
        attempts.append(attempt(len(attempts) + 1, parent.number if parent else None, step))
    spans = lineage(attempts)
    assert spans[-1].attempt == attempts[-1].number
    for step in range(spans[0].first, attempts[-1].step + 5):
        assert sum(span.covers(step) for span in spans) == 1


def test_two_groups_never_share_an_attempt_number(tmp_path: Path) -> None:
    def start(_: int) -> int:
        return allocate(str(tmp_path), parent=None, step=0, stage=0, steps_per_epoch=1, workers=["host:1"]).number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(start, range(16)))
    assert sorted(numbers) == list(range(1, 17))
    assert [found.number for found in read_attempts(str(tmp_path))] == list(range(1, 17))
