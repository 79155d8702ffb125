"""Guesses about columns: by names as published tables have them, and by values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.corpora import column_guesses as guesses
from ivr_dist.corpora.formats.table_mapping import parse_label
from ivr_dist.shards.specs import TaskSpec

MELD = {
    "Sr No.": ["1", "2", "3", "4"],
    "Utterance": ["also I was the person", "You must've had", "That I did. That I did.", "5"],
    "Speaker": ["Chandler", "The Interviewer", "Chandler", "Chandler"],
    "Emotion": ["neutral", "joy", "neutral", "anger"],
    "Dialogue_ID": ["0", "0", "1", "1"],
    "Utterance_ID": ["0", "1", "0", "1"],
}
MOSEI = {"vid": ["a", "a", "b"], "label": ["1.0", "-0.5", "0"], "cid": ["9", "8", "9"], "text": ["so", "it is", "x"]}
SIMS = {"name": ["v1", "v2"], "chinese": ["\u6211\u4e0d", "\u4f60"], "english": ["I do not want", "You are married"]}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (MELD, ("{Dialogue_ID}_{Utterance_ID}", "Dialogue_ID", "Utterance", ["Emotion"])),
        (MOSEI, ("{vid}_{cid}", "vid", "text", ["label"])),
        (SIMS, ("name", None, "english", [])),
        ({"clipId": ["a", "b"], "score": ["1", "2.5"]}, ("clipId", None, None, ["score"])),
        ({"score": ["1", "1"], "film": ["", "x"]}, (None, None, None, [])),
    ],
)
def test_columns_of_published_tables(columns: dict[str, list[str]], expected: tuple[object, ...]) -> None:
    labels = guesses.guess_labels(columns, ())
    found = (
        guesses.guess_id(columns),
        guesses.guess_group(columns, None, ()),
        guesses.guess_transcript(columns, labels),
        labels,
    )
    assert found == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1.5", "-3", "", "nan"], TaskSpec(type="regression", low=-3, high=1.5)),
        (["-1", "0", "1"], TaskSpec(type="regression", low=-1, high=1)),
        (["0", "1", "2", "1.0"], TaskSpec(type="classification", classes=3)),
        (["0", "2"], TaskSpec(type="regression", low=0, high=2)),
        (["sad", "Glad", "glad", "NA"], TaskSpec(type="classification", classes=2, names=("glad", "sad"))),
        (["True", "FALSE"], TaskSpec(type="classification", classes=2, names=("false", "true"))),
    ],
)
def test_tasks_of_values(values: list[str], expected: TaskSpec) -> None:
    assert guesses.guess_task(values) == expected
    assert {parse_label(value, expected) for value in values} - {None}


@given(st.lists(st.one_of(st.sampled_from(["", "nan", "a", "B", "b", "true", "1", "-2.5"]), st.text(max_size=3))))
def test_a_guessed_task_takes_every_value_it_was_guessed_from(values: list[str]) -> None:
    try:
        task = guesses.guess_task(values)
    except ValueError:
        return
    for value in values:
        label = parse_label(value, task)
        if label is not None and task.type == "classification":
            assert label in range(task.classes or 0)
        elif label is not None:
            assert task.low is not None and task.high is not None and task.low <= label <= task.high


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (["", "nan"], "0 different values"),
        (["7", "7"], "1 different"),
        ([f"t{n}" for n in range(101)], "101 different"),
    ],
)
def test_values_that_are_no_labels(values: list[str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        guesses.guess_task(values)


def test_splits_are_found_by_their_values() -> None:
    assert guesses.guess_split({"mode": ["x"], "fold": ["Test", "dev", "train"]}) == "fold"
    assert guesses.splits_of(["test", "dev", "train"]) == {"train": "train", "valid": "dev", "test": "test"}
    assert guesses.splits_of(["train", "dev", "val"]) is None, "two names of one split"
    assert guesses.splits_of(["train", "0"]) is None


def test_a_group_that_crosses_splits_is_not_guessed() -> None:
    columns = {
        "video": ["a", "a", "b", "b"],
        "scene": ["1", "1", "1", "2"],
        "split": ["train", "test", "train", "test"],
    }
    assert guesses.guess_group(columns, "split", ()) is None
    assert guesses.guess_group(columns, None, ()) == "video"
    assert guesses.crossing(columns["video"], columns["split"]) == ["a", "b"]


def test_names_of_tasks() -> None:
    names = ["labels.sentiment", "Sarcasm Type", "\u4f60", "valence(1-9)"]
    assert [guesses.task_name(name) for name in names] == ["sentiment", "sarcasm_type", "label", "valence_1_9"]
