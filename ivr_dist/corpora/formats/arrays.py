"""Format `arrays`: a corpus as flat arrays in .npz files or records in .json files, combined as its card describes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.common import strict_json
from ivr_dist.common.library_errors import describe
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.card_mappings import ArraysMapping, Column, Context
from ivr_dist.corpora.card_source import CardSource
from ivr_dist.corpora.files import read_source_file, read_source_text, split_of_group
from ivr_dist.corpora.readers.numpy_file import NpzFile
from ivr_dist.corpora.readers.texts import as_spoken, as_text, is_missing
from ivr_dist.corpora.source import Array, SampleRef, SourceSample, as_label, check_hygiene, checked_labels
from ivr_dist.errors import DataError
from ivr_dist.shards.npy import NUMBERS

_ABSENT = -1
_NO_WORDS = np.zeros(0, "U1")


class ArraysSource(CardSource):
    """A corpus of flat arrays.

    Every array is read from its .npz once and kept in memory; a sample is a copy of its slices. Pickles are not read.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: A card of format `arrays`.

    Raises:
        DataError: A file does not match the card, an array is missing or has a wrong shape, the splits have leakage, or
            a split has another number of samples than the card expects.
    """

    def __init__(self, root: str, card: Card) -> None:
        if card.arrays is None:
            raise ValueError(f"card {card.name} is not of format arrays")
        self._root = root
        self._card = card
        self._mapping: ArraysMapping = card.arrays
        self._files = ArrayFiles(root, card)
        self._ids = self._strings(self._mapping.id)
        self._groups = self._read_groups(self._mapping.group)
        self._splits = check_hygiene(self._read_splits(), card.expected_counts(), f"corpus {card.name}", card.split_by)
        self._labels = {task: self._numbers(column) for task, column in self._mapping.labels.items()}
        self._steps = {name: self._modality(name, column) for name, column in self._mapping.modalities().items()}
        dims = {name: view.width for name, view in self._steps.items() if view.width is not None}
        self._features = card.feature_specs(dims)
        self._transcript = self._view(self._mapping.transcript) if self._mapping.transcript else None
        self._context: list[list[int]] | None = None
        if self._mapping.context is not None and self._groups is not None:
            if None in self._groups:
                row = self._groups.index(None)
                raise DataError(f"sample {self._ids[row]} has no group, which context needs", where=f"card {card.name}")
            self._context = self._read_context(self._mapping.context, [group or "" for group in self._groups])

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Assemble one sample.

        Raises:
            DataError: A label is out of range, or an id is beyond the end of its lookup table.
        """
        rows = [ref.number] if self._context is None else self._context[ref.number]
        where = f"{self._card.files[self._mapping.file].path}, sample {ref.id}"
        labels = {
            task: _scalar(view.entries(ref.number), f"{where}, label {task}") for task, view in self._labels.items()
        }
        words = _NO_WORDS if self._transcript is None else self._transcript.entries(ref.number)
        main = self._card.files[self._mapping.file].path
        provenance: dict[str, Any] = {"file": main, "row": ref.number}
        if ref.group is not None:
            provenance["group"] = ref.group
        return SourceSample(
            id=ref.id,
            split=split,
            group=ref.group,
            labels=checked_labels(labels, self._card.tasks, where),
            transcript=" ".join(texts_of(words, f"{where}, transcript", as_spoken)),
            provenance=provenance,
            arrays={name: np.concatenate([view.entries(row) for row in rows]) for name, view in self._steps.items()},
        )

    def _strings(self, array: str) -> list[str]:
        values = self._files.read(self._mapping.file, array)
        return texts_of(values, f"{self._files.display(self._mapping.file)}, array {array}")

    def _read_groups(self, array: str | None) -> list[str | None] | None:
        """Read the group of each sample; None where it is empty."""
        return None if array is None else [group or None for group in self._strings(array)]

    def _read_splits(self) -> dict[str, list[SampleRef]]:
        groups: Sequence[str | None] = self._groups or [None] * len(self._ids)
        names: Sequence[str | None]
        if self._mapping.split is not None:
            names = self._strings(self._mapping.split)
        else:
            by_group = split_of_group(self._root, self._card) or {}
            names = [by_group.get(str(group)) for group in groups]
        where = self._files.display(self._mapping.file)
        if not len(names) == len(groups) == len(self._ids):
            raise DataError("the arrays of ids, groups and splits differ in length", where=where)
        splits: dict[str, list[SampleRef]] = {name: [] for name in self._card.splits}
        for number, (id_, group, name) in enumerate(zip(self._ids, groups, names, strict=True)):
            if name is None or name not in splits:
                what = f"group {group} of sample {id_} is in no split" if name is None else f"unknown split {name!r}"
                raise DataError(what, where=where, remedy=f"describe it in the card; it has {', '.join(splits)}")
            splits[name].append(SampleRef(number, id_, group))
        return splits

    def _modality(self, name: str, column: Column) -> _View:
        """View a column of time steps: vectors, or token ids."""
        view = self._numbers(column)
        steps = view.values if view.table is None else view.table
        if self._card.features[name].kind == "features" and steps.ndim != 2:
            array = column.array if column.lookup is None else column.lookup.array
            raise DataError(
                f"array {array} is {list(steps.shape)}, not [steps, features], for {name}",
                where=self._files.display(column.file or self._mapping.file),
                remedy="concatenate the steps of all samples, and map their offset",
            )
        return view

    def _numbers(self, column: Column) -> _View:
        """View a column of numbers; one that holds only empty texts is a column of NaN."""
        view = self._view(column)
        steps = view.values if view.table is None else view.table
        if view.table is None and steps.dtype.kind == "U" and not (steps != "").any():
            return replace(view, values=np.full(steps.shape, math.nan))
        if steps.dtype.kind not in NUMBERS:
            where = self._files.display(column.file or self._mapping.file)
            raise DataError(f"array {column.array} holds {steps.dtype}, not numbers", where=where)
        return view

    def _view(self, column: Column) -> _View:
        """Collect a column's arrays, and check that their shapes match."""
        file = column.file or self._mapping.file
        values = self._files.read(file, column.array)
        where = self._files.display(file)
        offset = None if column.offset is None else self._files.read(file, column.offset)
        if offset is not None:
            _check_offset(offset, len(values), f"{where}, array {column.offset}")
        rows = np.arange(len(self._ids))
        if column.join is not None:
            rows = self._joined(self._files.read(file, column.join), f"{where}, array {column.join}")
        count = len(values) if offset is None else len(offset) - 1
        if column.join is None and count != len(rows):
            raise DataError(f"array {column.array} has {count} rows for {len(rows)} samples", where=where)
        if len(rows) and rows.max() >= count:
            raise DataError(f"array {column.array} has {count} rows, {column.join} names more", where=where)
        if column.lookup is None:
            return _View(values, offset, rows)
        table = self._files.read(column.lookup.file or file, column.lookup.array)
        if values.dtype.kind not in "iu" or (len(values) and (values.min() < 0 or values.max() >= len(table))):
            raise DataError(f"array {column.array} does not hold ids 0..{len(table) - 1} of its lookup", where=where)
        return _View(values, offset, rows, table)

    def _joined(self, ids: Array, where: str) -> npt.NDArray[np.int64]:
        """Find the row of each sample in a file with its own order, _ABSENT where there is none."""
        row_of = {id_: row for row, id_ in enumerate(texts_of(ids, where))}
        if len(row_of) != len(ids):
            raise DataError("a sample id is given twice", where=where)
        rows = np.array([row_of.get(id_, _ABSENT) for id_ in self._ids], np.int64)
        if len(rows) and rows.max() == _ABSENT:
            raise DataError("none of its ids is in the main file", where=where, remedy="check join in the card")
        return rows

    def _read_context(self, context: Context, groups: list[str]) -> list[list[int]]:
        """List the rows of each sample's sequence: its own, then those of its group before it, newest first."""
        order = self._files.read(self._mapping.file, context.order)
        where = f"{self._files.display(self._mapping.file)}, array {context.order}"
        if order.shape != (len(groups),) or order.dtype.kind not in NUMBERS or not np.isfinite(order).all():
            what = f"{list(order.shape)} of {order.dtype}, not one finite number for each of {len(groups)} samples"
            raise DataError(what, where=where)
        sequences: dict[str, list[int]] = {}
        for row in np.argsort(order, kind="stable").tolist():
            earlier = sequences.setdefault(groups[row], [])
            if earlier and order[earlier[-1]] == order[row]:
                raise DataError(f"two samples of group {groups[row]} have the number {order[row]}", where=where)
            earlier.append(row)
        rows: list[list[int]] = [[] for _ in groups]
        for sequence in sequences.values():
            for position, row in enumerate(sequence):
                rows[row] = sequence[max(0, position - context.before) : position + 1][::-1]
        return rows


@dataclass(frozen=True)
class _View:
    """A column of the card as a view of loaded arrays."""

    values: Array
    offset: Array | None
    rows: npt.NDArray[np.int64]
    """[samples] row of each sample in `values` (or in `offset`), or _ABSENT."""
    table: Array | None = None

    @property
    def width(self) -> int | None:
        """Features of a time step; None where a step is not a vector."""
        steps = self.values if self.table is None else self.table
        return steps.shape[1] if steps.ndim == 2 else None

    def entries(self, number: int) -> Array:
        """Return the entries of a sample, [entries, ...]; none if its file lacks the sample."""
        row = int(self.rows[number])
        if row == _ABSENT:
            start, end = 0, 0
        elif self.offset is None:
            start, end = row, row + 1
        else:
            start, end = int(self.offset[row]), int(self.offset[row + 1])
        return self.values[start:end] if self.table is None else self.table[self.values[start:end]]


class ArrayFiles:
    """The card's .npz and .json files; each array is read once."""

    def __init__(self, root: str, card: Card) -> None:
        self._root = root
        self._card = card
        self._archives: dict[str, Any] = {}
        self._arrays: dict[tuple[str, str], Array] = {}

    def display(self, file: str) -> str:
        """Name of a file, for errors."""
        return storage.display(storage.join(self._root, self._card.files[file].path))

    def read(self, file: str, name: str) -> Array:
        """Read one array of one file.

        Raises:
            DataError: The file is of another kind, has no such array, or the array is not of numbers or text.
        """
        if (file, name) not in self._arrays:
            if file not in self._archives:
                self._archives[file] = self._open(file)
            archive = self._archives[file]
            if name not in archive.files:
                names = ", ".join(archive.files)
                raise DataError(f"no array {name}", where=self.display(file), remedy=f"it has: {names}")
            self._arrays[file, name] = archive[name]
            if self._arrays[file, name].ndim == 0:
                raise DataError(f"array {name} is a single value", where=self.display(file))
        return self._arrays[file, name]

    def _open(self, file: str) -> Any:
        described = self._card.files[file]
        if described.path.endswith(".json"):
            return _Records(read_source_text(self._root, described, "a JSON file"), self.display(file))
        return NpzFile(read_source_file(self._root, described), self.display(file))


class _Records:
    """A JSON list of objects with the same keys, as one array for each key."""

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        try:
            rows = strict_json.loads(text)
        except ValueError as error:
            raise DataError(
                f"not a JSON file: {describe(error)}", where=where, remedy="check files in the card"
            ) from None
        if not (isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)):
            raise DataError("not a JSON list of objects", where=where, remedy="check files in the card")
        for number, row in enumerate(rows):
            if row.keys() != rows[0].keys():
                what = f"object {number} of the list does not have the same keys as the first"
                raise DataError(
                    what, where=where, remedy="write all keys in every object, with null for missing values"
                )
        self._rows: list[dict[str, Any]] = rows
        self.files = list(rows[0])

    def __getitem__(self, name: str) -> Array:
        """Make an array of texts or numbers; null becomes an empty text, or NaN."""
        values = [None if is_missing(row[name]) else row[name] for row in self._rows]
        types = {type(value) for value in values if value is not None}
        if types <= {str}:
            return np.array([value or "" for value in values])
        # JSON may write 3.0 as 3, so numbers may be of both types.
        if types <= {int, float}:
            array = np.array([math.nan if value is None else value for value in values])
            if array.dtype.kind in "iuf" and (array.dtype.kind != "f" or float in types or None in values):
                return array
            # Beyond 64 bits, numpy keeps Python's integers, or rounds to float.
            raise DataError(f"array {name} holds whole numbers of more than 64 bits", where=self._where)
        what = f"array {name} mixes texts and numbers, or holds other values"
        raise DataError(what, where=self._where, remedy="use only texts or only numbers, and null")


def texts_of(values: Array, where: str, text: Callable[[Any], str] = as_text) -> list[str]:
    """Convert the entries of an array to texts.

    Raises:
        DataError: An entry cannot be converted; names its row.
    """
    texts = []
    for value in values.reshape(-1).tolist():
        try:
            texts.append(text(value))
        except ValueError as error:
            raise DataError(f"row {len(texts)}: {error}", where=where) from None
    return texts


def _check_offset(offset: Array, entries: int, where: str) -> None:
    if offset.dtype.kind not in "iu" or offset.ndim != 1 or len(offset) < 1:
        raise DataError("not a list of integers", where=where)
    if offset[0] != 0 or offset[-1] != entries or np.any(offset[1:] < offset[:-1]):
        raise DataError(f"offsets must rise from 0 to {entries}, the length of the array they divide", where=where)


def _scalar(entries: Array, where: str) -> float | None:
    if entries.size == 0:
        return None
    if entries.size > 1:
        raise DataError(f"{entries.size} values", where=where, remedy="map an array with one value for each sample")
    return as_label(entries.reshape(-1)[0])
