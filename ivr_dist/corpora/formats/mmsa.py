"""Format `mmsa`: the pickles of MMSA, {train, valid, test} of arrays padded to a common length.

Padding is removed in this way:
* A file with `audio_lengths` and `vision_lengths` is not aligned: audio and vision have these lengths, and the text has
  the steps in the mask of `text_bert` or, without a mask, all but the zeros at its padded end.
* A file without lengths is aligned: all modalities keep the same number of steps, as many as the mask has, or more if a
  step beyond it is not zero, so that only zeros are removed.

A modality that is zero throughout is missing. Word pieces (`text: text_bert`) are those in the mask, with the special
ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ivr_dist.corpora.card import Card
from ivr_dist.corpora.card_mappings import MmsaMapping
from ivr_dist.corpora.card_source import CardSource
from ivr_dist.corpora.readers import padding
from ivr_dist.corpora.readers.split_pickle import SplitPart, group_of, open_splits, widths
from ivr_dist.corpora.readers.texts import as_spoken
from ivr_dist.corpora.source import Array, SampleRef, SourceSample, as_label, check_hygiene, checked_labels
from ivr_dist.errors import DataError

_REMEDY = "check mmsa.padding in the card"
_BERT = "text_bert"


class MmsaSource(CardSource):
    """A corpus in a pickle of MMSA.

    Ids, transcripts, labels and lengths are read once; features stay in the file and are read with their sample.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: A card of format `mmsa`.

    Raises:
        DataError: The file is not such a pickle, an array is missing or has a wrong shape, the splits have leakage, or
            a split has another number of samples than the card expects.
    """

    def __init__(self, root: str, card: Card) -> None:
        if card.mmsa is None:
            raise ValueError(f"card {card.name} is not of format mmsa")
        self._card = card
        self._file = card.files[card.mmsa.file].path
        parts, self._notes = open_splits(root, card, card.mmsa.file)
        names = {name: name for name, described in card.features.items() if described.kind == "features"}
        self._features = card.feature_specs(widths(parts, names))
        self._parts = {split: _Part(part, card, card.mmsa) for split, part in parts.items()}
        for task, name in card.mmsa.labels.items():
            if not any(part.has(name) for part in parts.values()):
                raise DataError(f"no split has an array {name}, the label {task}", where=self._file)
        refs = {split: part.refs() for split, part in self._parts.items()}
        self._splits = check_hygiene(refs, card.expected_counts(), f"corpus {card.name}", card.split_by)

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Read one sample and remove its padding.

        Raises:
            DataError: A label is out of range, or a mask or a length is invalid.
        """
        part = self._parts[split]
        where = f"{part.where}, sample {ref.id}"
        labels = {task: as_label(values[ref.number]) for task, values in part.labels.items()}
        provenance: dict[str, Any] = {"file": self._file, "row": ref.number}
        if ref.group is not None:
            provenance["group"] = ref.group
        return SourceSample(
            id=ref.id,
            split=split,
            group=ref.group,
            labels=checked_labels(labels, self._card.tasks, where),
            transcript=part.transcripts[ref.number],
            provenance=provenance,
            arrays=part.arrays(ref.number, where),
        )


class _Part:
    """One split."""

    def __init__(self, part: SplitPart, card: Card, mapping: MmsaMapping) -> None:
        self.where = part.where
        self._mapping = mapping
        self._ids = part.texts("id")
        spoken = part.texts("raw_text", as_spoken, self._ids) if part.has("raw_text") else None
        self.transcripts = [""] * len(part) if spoken is None else spoken
        # A split without labels is packed as well, for prediction.
        self.labels = {task: part.single_numbers(name) for task, name in mapping.labels.items() if part.has(name)}
        self._steps = {name: part.steps(name) for name in card.features if name != "text" or mapping.text == "text"}
        self._tokens = "text" in card.features and mapping.text == _BERT
        self._bert = part.steps(_BERT) if self._tokens or part.has(_BERT) else None
        if self._bert is not None and self._bert.shape[1] != 3:
            raise DataError(f"{_BERT} is {list(self._bert.shape)}, not [samples, 3, steps]", where=part.where)
        lengths = {name: f"{name}_lengths" for name in ("audio", "vision")}
        self._lengths = {name: part.lengths(array) for name, array in lengths.items() if part.has(array)}
        unknown = [name for name in ("audio", "vision") if name in self._steps and name not in self._lengths]
        if self._lengths and unknown:
            raise DataError(f"lengths are given, but not {unknown[0]}_lengths", where=part.where)
        if not self._lengths and len({steps.shape[1] for steps in self._steps.values()}) > 1:
            shapes = ", ".join(f"{name} {steps.shape[1]}" for name, steps in self._steps.items())
            what = f"no audio_lengths and vision_lengths, and steps that are not aligned: {shapes}"
            raise DataError(what, where=part.where, remedy="use the file with lengths")

    def refs(self) -> list[SampleRef]:
        """List its samples."""
        separator = self._mapping.separator
        return [SampleRef(n, id_, group_of(id_, separator, self.where)) for n, id_ in enumerate(self._ids)]

    def arrays(self, number: int, where: str) -> dict[str, Array]:
        """Read the arrays of a sample by modality, without padding."""
        side = self._mapping.padding
        rows = {name: steps.row(number) for name, steps in self._steps.items()}
        pieces = None if self._bert is None else _Pieces.of(self._bert.row(number), where)
        arrays: dict[str, Array] = {}
        if self._tokens and pieces is not None:
            arrays["text"] = pieces.ids
        if not self._lengths:
            # At least as many steps as the mask has, on either side.
            return arrays | padding.cut_alike(rows, side, 0 if pieces is None else pieces.count)
        if "text" in rows:
            text = rows.pop("text")
            arrays["text"] = _without_zeros(text, side) if pieces is None else _in_mask(text, pieces, side, where)
        for name, values in rows.items():
            arrays[name] = _cut(values, int(self._lengths[name][number]), side, name, where)
        return arrays


@dataclass(frozen=True)
class _Pieces:
    """The word pieces in a mask, which must be one run."""

    ids: Array
    """[T] ids."""
    first: int
    """Time step of the first piece."""
    steps: int
    """Time steps of the row, padding included."""

    @property
    def count(self) -> int:
        """Number of pieces T."""
        return len(self.ids)

    @classmethod
    def of(cls, block: Array, where: str) -> _Pieces:
        """Select the pieces of [3, steps] ids, mask and types."""
        ids, marked = block[0], np.flatnonzero(block[1])
        if len(marked) and marked[-1] - marked[0] + 1 != len(marked):
            raise DataError("the mask of text_bert has gaps", where=where)
        # Some files of MMSA have them as float32.
        with np.errstate(invalid="ignore"):
            selected: Array = ids[marked].astype(np.int64)
        if not np.array_equal(selected, ids[marked]):
            raise DataError("the ids of text_bert are not whole numbers", where=where)
        return cls(selected, int(marked[0]) if len(marked) else 0, len(ids))


def _without_zeros(text: Array, side: padding.Side) -> Array:
    """Remove the padding of a text without a mask; it may be on another side than that of audio and vision."""
    if side == "front" and len(text) and text[0].any():
        side = "end"
    return padding.keep(text, padding.steps(text, side), side)


def _in_mask(text: Array, pieces: _Pieces, side: padding.Side, where: str) -> Array:
    """Select the steps of the text in the mask; or as many on the unpadded side, if the mask clearly does not match."""
    if len(text) == pieces.steps:
        end = pieces.first + pieces.count
        steps = text[pieces.first : end]
        # A word without a vector is zero; a step that is not zero must not be left out.
        if not (text[: pieces.first].any() or text[end:].any()) or (steps[:1].any() and steps[-1:].any()):
            return padding.present(steps)
    return _cut(text, pieces.count, side, "text", where)


def _cut(values: Array, length: int, side: padding.Side, name: str, where: str) -> Array:
    try:
        return padding.cut_to_length(values, length, side)
    except ValueError as error:
        raise DataError(f"{name}: {error}", where=where, remedy=_REMEDY) from None
