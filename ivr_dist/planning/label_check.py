"""Is there something to learn, to select by and to score? What the manifests count of labels, told before a run."""

from __future__ import annotations

from collections.abc import Mapping

from ivr_dist.errors import DataError
from ivr_dist.shards.manifest import Manifest

_LAYOUT = "labels are an object of numbers by task under `labels` in each KEY.json, see shards/README.md"


def check_labels(manifests: Mapping[str, Manifest], weights: Mapping[str, float], selects: bool) -> None:
    """Refuse to train on nothing, and to select by nothing.

    Splits that were packed before labels were counted pass.

    Args:
        manifests: By split; all have the same tasks.
        weights: Of the tasks' losses; 1 for those that are absent.
        selects: Whether a metric of the validation split decides which checkpoint is best.

    Raises:
        DataError: No task with a weight has a label in train, or none has one in valid that has to decide.
    """
    train, valid = manifests["train"], manifests.get("valid")
    learned = [task for task in train.tasks if weights.get(task, 1.0) > 0]
    if not learned and train.tasks:
        raise DataError(
            "there is nothing to learn: loss.tasks turns every task off",
            where=_place(train),
            remedy=f"give one a weight; there are: {', '.join(train.tasks)}",
        )
    if set(learned) <= set(train.unlabelled()):
        which = f" of {', '.join(learned)}" if learned else ""
        raise DataError(f"there is nothing to learn: no sample has a label{which}", where=_place(train), remedy=_LAYOUT)
    if valid is not None and selects and set(valid.tasks) <= set(valid.unlabelled()):
        raise DataError(
            "there is nothing to select by: no sample has a label",
            where=_place(valid),
            remedy="give it labels, or train without data.valid and with train.select=last",
        )


def label_notes(manifests: Mapping[str, Manifest]) -> list[str]:
    """What a user should know about labels that are not there, a sentence each."""
    found = []
    for each in manifests.values():
        if not each.tasks:
            found.append(f"no sample of {_place(each)} has a label; {_LAYOUT}")
        found += [f"no sample of {_place(each)} has a label {task}" for task in each.unlabelled()]
    return found


def _place(manifest: Manifest) -> str:
    return f"{manifest.corpus}, split {manifest.split}"
