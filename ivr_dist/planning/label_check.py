"""Checks of label counts before a run: labels to learn from, to select checkpoints by, and to score."""

from __future__ import annotations

from collections.abc import Mapping

from ivr_dist.errors import DataError
from ivr_dist.shards.manifest import Manifest

_LAYOUT = "labels are an object of numbers by task under `labels` in each KEY.json, see shards/README.md"


def check_labels(manifests: Mapping[str, Manifest], weights: Mapping[str, float], selects: bool) -> None:
    """Refuse a run without labels to learn from, or without labels to select the best checkpoint by.

    Splits packed by versions that did not count labels pass.

    Args:
        manifests: By split, with the same tasks.
        weights: Loss weights by task; 1 for absent tasks.
        selects: Whether a metric of the validation split selects the best checkpoint.

    Raises:
        DataError: No task with a weight has a label in train, or no task has one in a validation split that selects.
    """
    train, valid = manifests["train"], manifests.get("valid")
    learned = [task for task in train.tasks if weights.get(task, 1.0) > 0]
    if not learned and train.tasks:
        raise DataError(
            "there is nothing to learn: loss.tasks turns every task off",
            where=_split_name(train),
            remedy=f"give one a weight; there are: {', '.join(train.tasks)}",
        )
    if set(learned) <= set(train.unlabeled()):
        which = f" of {', '.join(learned)}" if learned else ""
        raise DataError(
            f"there is nothing to learn: no sample has a label{which}", where=_split_name(train), remedy=_LAYOUT
        )
    if valid is not None and selects and set(valid.tasks) <= set(valid.unlabeled()):
        raise DataError(
            "there is nothing to select by: no sample has a label",
            where=_split_name(valid),
            remedy="give it labels, or train without data.valid and with train.select=last",
        )


def label_notes(manifests: Mapping[str, Manifest]) -> list[str]:
    """Notes about missing labels, a sentence each."""
    notes = []
    for each in manifests.values():
        if not each.tasks:
            notes.append(f"no sample of {_split_name(each)} has a label; {_LAYOUT}")
        notes += [f"no sample of {_split_name(each)} has a label {task}" for task in each.unlabeled()]
    return notes


def _split_name(manifest: Manifest) -> str:
    return f"{manifest.corpus}, split {manifest.split}"
