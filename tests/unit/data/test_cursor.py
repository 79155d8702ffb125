"""The data cursor: advancing, JSON round trip, refusal of another order."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ivr_dist.data.cursor import DataCursor
from ivr_dist.errors import CheckpointError, CheckpointMismatchError

CURSOR = DataCursor(manifest_id="ab12", seed=7, epoch=3, step=1, lanes=4, global_batch=16, delay=100)


def test_advance_steps_within_the_epoch_and_wraps_at_its_end() -> None:
    after = CURSOR.advance(3)
    assert (after.epoch, after.step) == (3, 2)
    after = after.advance(3)
    assert (after.epoch, after.step) == (4, 0)
    assert CURSOR.step == 1


def test_epochs_of_one_step() -> None:
    assert replace(CURSOR, step=0).advance(1) == replace(CURSOR, epoch=4, step=0)


def test_json_round_trip() -> None:
    assert DataCursor.from_json(json.loads(json.dumps(CURSOR.to_json()))) == CURSOR


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ({"rank": 0}, "unknown key rank"),
        ({"step": "1"}, "step: '1' is not a whole number"),
        ({"lanes": None}, "lanes: null is not a whole number"),
        ({"manifest_id": 5}, "manifest_id: 5 is not a string"),
    ],
)
def test_unknown_fields_and_wrong_types_are_refused(damage: dict, text: str) -> None:
    with pytest.raises(CheckpointError, match=f"cursor is damaged: {text}; resume from another"):
        DataCursor.from_json({**CURSOR.to_json(), **damage})


def test_missing_fields_are_refused() -> None:
    value = CURSOR.to_json()
    del value["epoch"]
    with pytest.raises(CheckpointError, match="cursor is damaged: key epoch is missing"):
        DataCursor.from_json(value)


@pytest.mark.parametrize(
    ("field", "value"), [("manifest_id", "cd"), ("seed", 8), ("lanes", 8), ("global_batch", 32), ("delay", 0)]
)
def test_another_order_is_refused_by_name(field: str, value: str | int) -> None:
    with pytest.raises(CheckpointMismatchError, match=rf"has {field} .*, this run has {value}; .+"):
        CURSOR.check_matches(replace(CURSOR, **{field: value}))


def test_another_position_is_no_mismatch() -> None:
    CURSOR.check_matches(replace(CURSOR, epoch=0, step=0))
