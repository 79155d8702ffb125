"""Format `mult`: the pickles of MulT and MultiBench, {train, valid, test} of arrays padded with zeros at the front.

Padding is removed from each modality separately; in aligned files the same number of steps is removed from all. A
modality that is zero throughout is missing. There is no transcript.
"""

from __future__ import annotations

import numpy as np

from ivr_dist.corpora.card import Card
from ivr_dist.corpora.card_mappings import MultMapping
from ivr_dist.corpora.card_source import CardSource
from ivr_dist.corpora.readers import padding
from ivr_dist.corpora.readers.split_pickle import SplitPart, group_of, open_splits, widths
from ivr_dist.corpora.source import Array, SampleRef, SourceSample, as_label, check_hygiene, checked_labels
from ivr_dist.errors import DataError

_LABELS = "labels"
_ID = "id"


class MultSource(CardSource):
    """A corpus in a pickle of MulT or MultiBench.

    Ids and labels are read once; features stay in the file and are read with their sample. An id of three parts (video,
    start, end) has its video as group; an id of a single part has one if the card has a separator. Samples without ids
    are named by split and row; leakage between their splits cannot be detected.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: A card of format `mult`.

    Raises:
        DataError: The file is not such a pickle, an array is missing or has a wrong shape, the splits have leakage, or
            a split has another number of samples than the card expects.
    """

    def __init__(self, root: str, card: Card) -> None:
        if card.mult is None:
            raise ValueError(f"card {card.name} is not of format mult")
        self._card = card
        self._mapping: MultMapping = card.mult
        self._file = card.files[card.mult.file].path
        self._parts, self._notes = open_splits(root, card, card.mult.file)
        self._features = card.feature_specs(widths(self._parts, {name: name for name in card.features}))
        self._steps = {split: {name: part.steps(name) for name in card.features} for split, part in self._parts.items()}
        for split, steps in self._steps.items():
            lengths = {array.shape[1] for array in steps.values()}
            if self._mapping.aligned and len(lengths) > 1:
                remedy = "set mult.aligned to false"
                raise DataError("the modalities differ in steps", where=self._parts[split].where, remedy=remedy)
        # A split without labels is packed as well, for prediction.
        self._labels = {split: self._read_labels(part) for split, part in self._parts.items() if part.has(_LABELS)}
        refs = {split: self._refs(split, part) for split, part in self._parts.items()}
        self._splits = check_hygiene(refs, card.expected_counts(), f"corpus {card.name}", card.split_by)

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Read one sample and remove its padding.

        Raises:
            DataError: A label is out of range.
        """
        where = f"{self._parts[split].where}, sample {ref.id}"
        rows = {name: steps.row(ref.number) for name, steps in self._steps[split].items()}
        cut = padding.cut_alike if self._mapping.aligned else padding.cut_each
        labels = {}
        if split in self._labels:
            row = self._labels[split][ref.number]
            labels = {task: _label(row, column, where) for task, column in self._mapping.labels.items()}
        return SourceSample(
            id=ref.id,
            split=split,
            group=ref.group,
            labels=checked_labels(labels, self._card.tasks, where),
            transcript="",
            provenance={"file": self._file, "row": ref.number} | ({} if ref.group is None else {"group": ref.group}),
            arrays=cut(rows, "front"),
        )

    def _refs(self, split: str, part: SplitPart) -> list[SampleRef]:
        if not part.has(_ID):
            return [SampleRef(row, f"{split}_{row}") for row in range(len(part))]
        refs = []
        for number, parts in enumerate(part.text_rows(_ID)):
            group = parts[0] if len(parts) > 1 else group_of(parts[0], self._mapping.separator, part.where)
            refs.append(SampleRef(number, "_".join(parts), group))
        return refs

    def _read_labels(self, part: SplitPart) -> Array:
        """Read the labels [N, columns, values]."""
        values = part.numbers(_LABELS)
        values = values.reshape(*values.shape, *[1] * (3 - values.ndim))
        last = max(self._mapping.labels.values(), default=0)
        if values.ndim != 3 or last >= values.shape[1]:
            what = f"{_LABELS} is {list(values.shape)}, which has no column {last}"
            raise DataError(what, where=part.where, remedy="correct mult.labels in the card")
        return values


def _label(row: Array, column: int, where: str) -> float:
    """Return a label of [columns, values]; of several values in one-hot form, the index of the 1."""
    values = row[column]
    if len(values) == 1:
        return as_label(values[0])
    if np.count_nonzero(values) != 1 or values.max() != 1:
        raise DataError(f"column {column} of {_LABELS} is {values.tolist()}, not in one-hot form", where=where)
    return float(values.argmax())
