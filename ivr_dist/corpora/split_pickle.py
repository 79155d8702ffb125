"""Pickles of the form {split: {name: array}}, one entry a sample: what MMSA, MulT and MultiBench write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.pickled import PickledArray, as_numbers, as_texts
from ivr_dist.corpora.pickles import load_pickle
from ivr_dist.corpora.source import Array
from ivr_dist.errors import DataError

_MAX_PARTS = 8
"""Of an id."""


class SplitPart:
    """The arrays of one split; the entries of each are its samples."""

    def __init__(self, values: Mapping[Any, Any], where: str) -> None:
        self._values = values
        self.where = where
        """File and split, for errors."""

    def names(self) -> list[str]:
        """Of its arrays."""
        return [str(name) for name in self._values]

    def has(self, name: str) -> bool:
        """Whether there is such an array; None stands for none."""
        return self._values.get(name) is not None

    def __len__(self) -> int:
        arrays = [value for value in self._values.values() if isinstance(value, PickledArray)]
        if not arrays:
            raise DataError("the split has no arrays", where=self.where)
        # The arrays of steps say how many samples there are; some files keep other things beside them.
        return len(next((array for array in arrays if len(array.shape) == 3), arrays[0]))

    def texts(self, name: str) -> list[str]:
        """A list or an array of texts, one a sample."""
        try:
            found = as_texts(self._get(name))
        except ValueError as error:
            raise self._wrong(name, str(error)) from None
        return self._counted(name, found)  # type: ignore[no-any-return]

    def text_rows(self, name: str) -> list[list[str]]:
        """A list or an array of one or several texts a sample."""
        values = self._get(name)
        try:
            if isinstance(values, PickledArray):
                flat, width = as_texts(values), len(values) and math.prod(values.shape) // len(values)
                return [flat[row * width : (row + 1) * width] for row in range(len(values))]
            if any(isinstance(value, list | tuple) and len(value) > _MAX_PARTS for value in values):
                raise ValueError(f"more than {_MAX_PARTS} texts a sample")
            rows = [as_texts([value] if isinstance(value, str | bytes | int) else value) for value in values]
        except (TypeError, ValueError) as error:
            raise self._wrong(name, str(error)) from None
        return self._counted(name, rows)  # type: ignore[no-any-return]

    def numbers(self, name: str) -> Array:
        """[N, ...] a list or an array of numbers."""
        values = self._get(name)
        try:
            if isinstance(values, PickledArray):
                values = values.load() if values.items is None else values.items
            found = values if isinstance(values, np.ndarray) else as_numbers(values)
        except ValueError as error:
            raise self._wrong(name, str(error)) from None
        if found.dtype.kind not in "fiub" or found.ndim < 1:
            raise self._wrong(name, "not numbers")
        return self._counted(name, found)  # type: ignore[no-any-return]

    def single_numbers(self, name: str) -> Array:
        """[N] a list or an array of one number a sample."""
        found = self.numbers(name)
        if found.size != len(found):
            raise self._wrong(name, f"{list(found.shape)}, not one number a sample")
        return found.reshape(-1)

    def steps(self, name: str) -> PickledArray:
        """[N, T, D] an array of numbers, read a sample at a time."""
        values = self._get(name)
        if not isinstance(values, PickledArray) or values.items is not None or len(values.shape) != 3:
            shape = f" of shape {list(values.shape)}" if isinstance(values, PickledArray) else ""
            raise self._wrong(name, f"not an array [samples, steps, features] of numbers{shape}")
        return self._counted(name, values)  # type: ignore[no-any-return]

    def _get(self, name: str) -> Any:
        if not self.has(name):
            remedy = f"it has: {', '.join(self.names())}; correct the card"
            raise DataError(f"no array {name}", where=self.where, remedy=remedy)
        return self._values[name]

    def _counted(self, name: str, found: Any) -> Any:
        if len(found) != len(self):
            raise self._wrong(name, f"{len(found)} entries for {len(self)} samples")
        return found

    def _wrong(self, name: str, what: str) -> DataError:
        return DataError(f"array {name}: {what}", where=self.where)


def open_splits(root: str, card: Card, file: str) -> dict[str, SplitPart]:
    """Open a pickle of splits.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: Its splits must be those of the file.
        file: Key of the pickle.

    Returns:
        By split as the card names it.

    Raises:
        DataError: The file is not such a pickle, or has other splits.
    """
    content = load_pickle(root, card.files[file])
    where = storage.display(storage.join(root, card.files[file].path))
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        raise DataError("not a dictionary of splits", where=where, remedy="check format and files in the card")
    return {name: SplitPart(part, f"{where}, split {name}") for name, part in by_split(content, card, where).items()}


def by_split(content: Mapping[Any, Any], card: Card, where: str) -> dict[str, Any]:
    """What a file has for each split, by the card's name for it.

    Raises:
        DataError: The file has other splits than the card.
    """
    called = {split.called or name: name for name, split in card.splits.items()}
    if set(content) != set(called):
        raise DataError(
            f"the file has the splits {', '.join(map(str, content))}, the card {', '.join(called)}",
            where=where,
            remedy="describe those of the file; `called` gives a split the file's name for it",
        )
    return {name: content[there] for there, name in called.items()}


def widths(parts: Mapping[str, SplitPart], arrays: Mapping[str, str]) -> dict[str, int]:
    """Features of a step by modality, which must be the same in every split.

    Args:
        parts: By split.
        arrays: Name of the array by modality.
    """
    found: dict[str, int] = {}
    for part in parts.values():
        for modality, name in arrays.items():
            width = part.steps(name).shape[2]
            if found.setdefault(modality, width) != width:
                raise DataError(
                    f"array {name} has {found[modality]} features elsewhere and {width} here", where=part.where
                )
    return found


def group_of(id_: str, separator: str, where: str) -> str | None:
    """The video in a sample's id; None without a separator.

    Raises:
        DataError: The id does not have the separator.
    """
    if not separator:
        return None
    group, found, _ = id_.rpartition(separator)
    if not found:
        remedy = "give the card the separator of its ids, or an empty one if they do not name a video"
        raise DataError(
            f"id {id_} has no {separator} in it, before which its video would stand", where=where, remedy=remedy
        )
    return group
