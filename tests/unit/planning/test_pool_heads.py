"""Heads of a pool: which tasks share one, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ivr_dist.planning.label_scale import from_head, to_head
from ivr_dist.planning.pool_heads import assign_heads, head_faults, head_specs, members_by_head
from ivr_dist.shards.specs import TaskSpec

SCORE = TaskSpec(type="regression", low=-3.0, high=3.0, scale="mosi")
OTHER = TaskSpec(type="regression", low=-1.0, high=1.0, scale="sims")
MOODS = TaskSpec(type="classification", classes=3, names=("bad", "so", "good"))


def heads(**tasks: TaskSpec) -> dict[str, dict[str, str]]:
    return assign_heads({corpus: {"task": spec} for corpus, spec in tasks.items()}, {})


def test_equal_tasks_share_a_head_and_unequal_ones_have_their_own() -> None:
    assert heads(a=SCORE, b=SCORE) == {"a": {"task": "task"}, "b": {"task": "task"}}
    assert heads(a=SCORE, b=OTHER) == {"a": {"task": "task_a"}, "b": {"task": "task_b"}}
    assert heads(a=SCORE) == {"a": {"task": "task"}}


def test_classes_are_shared_only_where_their_names_are_known_and_equal() -> None:
    """`emotion` 1 is surprise in one corpus and joyful in another."""
    shared = {"a": {"task": "task"}, "b": {"task": "task"}}
    assert heads(a=MOODS, b=MOODS) == shared
    for other in (replace(MOODS, names=None), replace(MOODS, names=("good", "so", "bad"))):
        assert heads(a=MOODS, b=other) == {"a": {"task": "task_a"}, "b": {"task": "task_b"}}
    unnamed = replace(MOODS, names=None)
    assert heads(a=unnamed, b=unnamed) == {"a": {"task": "task_a"}, "b": {"task": "task_b"}}


def test_the_config_may_name_heads() -> None:
    tasks = {"a": {"score": SCORE, "mood": MOODS}, "b": {"valence": OTHER}}
    found = assign_heads(tasks, {"b": {"valence": "score"}})
    assert found == {"a": {"score": "score", "mood": "mood"}, "b": {"valence": "score"}}
    members = members_by_head(tasks, found)
    assert not list(head_faults(members, "unit"))
    assert head_specs(members, "unit")["score"] == replace(SCORE, low=-1.0, high=1.0)
    assert head_specs(members, "native")["score"] == SCORE


@pytest.mark.parametrize(
    ("one", "other", "scale", "text"),
    [
        (SCORE, MOODS, "unit", r"head h is a regression in a and has 3 classes \(bad,so,good\) in b"),
        (SCORE, OTHER, "native", r"head h is -3\.\.3 in a and -1\.\.1 in b"),
        (MOODS, replace(MOODS, classes=4, names=None), "unit", "head h has 3 classes"),
        (replace(SCORE, low=None), replace(SCORE, low=None), "unit", "h of a has no range, which loss.scale = unit"),
    ],
)
def test_tasks_that_one_output_cannot_predict_are_refused(
    one: TaskSpec, other: TaskSpec, scale: str, text: str
) -> None:
    members = {"h": [("a", "h", one), ("b", "h", other)]}
    errors = list(head_faults(members, scale))  # type: ignore[arg-type]
    assert errors and errors[0].remedy
    with pytest.raises(type(errors[0]), match=text):
        raise errors[0]


def test_labels_are_mapped_and_mapped_back() -> None:
    import numpy as np

    labels = np.array([-3.0, 0.0, 1.5, 3.0])
    assert to_head(labels, SCORE, True).tolist() == [-1.0, 0.0, 0.5, 1.0]
    assert from_head(to_head(labels, SCORE, True), SCORE, True).tolist() == labels.tolist()
    uneven = TaskSpec(type="regression", low=1.0, high=9.0)
    assert to_head(np.array([1.0, 5.0, 9.0]), uneven, True).tolist() == [-1.0, 0.0, 1.0]
    for unchanged in (to_head(labels, SCORE, False), from_head(labels, SCORE, False), to_head(labels, MOODS, True)):
        assert unchanged.tolist() == labels.tolist()
