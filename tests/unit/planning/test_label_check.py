"""Label checks: labels for training, selection and scoring."""

from __future__ import annotations

import pytest

from ivr_dist.errors import DataError
from ivr_dist.planning.label_check import check_labels, label_notes
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import TaskSpec


def split(name: str, labels: dict[str, int], tasks: tuple[str, ...] = ("mood", "sad")) -> Manifest:
    described = {task: TaskSpec(type="regression") for task in tasks}
    return Manifest.create(corpus="c", split=name, seed=0, features={}, tasks=described, shards=[], labels=labels)


@pytest.mark.parametrize("labels", [{}, {"mood": 1, "sad": 0}, {"mood": 3, "sad": 3}])
def test_some_label_suffices_and_so_do_splits_that_were_not_counted(labels: dict[str, int]) -> None:
    both = {"train": split("train", labels), "valid": split("valid", labels)}
    check_labels(both, {}, selects=True)
    unlabeled = [f"no sample of c, split {name} has a label sad" for name in both if labels.get("sad") == 0]
    assert label_notes(both) == unlabeled


def test_nothing_to_learn() -> None:
    none = {"mood": 0, "sad": 0}
    with pytest.raises(DataError, match=r"nothing to learn: no sample has a label of mood, sad \(c, split train\)"):
        check_labels({"train": split("train", none)}, {}, selects=False)
    with pytest.raises(DataError, match="nothing to learn: no sample has a label of sad"):
        check_labels({"train": split("train", {"mood": 4, "sad": 0})}, {"mood": 0.0}, selects=False)
    with pytest.raises(DataError, match="turns every task off"):
        check_labels({"train": split("train", {})}, {"mood": 0.0, "sad": 0.0}, selects=False)
    with pytest.raises(DataError, match="nothing to learn: no sample has a label "):
        check_labels({"train": split("train", {}, ())}, {}, selects=False)


def test_nothing_to_select_by() -> None:
    manifests = {"train": split("train", {"mood": 1, "sad": 1}), "valid": split("valid", {"mood": 0, "sad": 0})}
    check_labels(manifests, {}, selects=False)
    assert len(label_notes(manifests)) == 2
    with pytest.raises(DataError, match=r"nothing to select by: no sample has a label \(c, split valid\)"):
        check_labels(manifests, {}, selects=True)
