"""Pickles of the form {split: {name: array}}, one entry a sample: what MMSA, MulT and MultiBench write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.readers.pickle_arrays import BadEntryError, PickledArray, as_numbers, as_texts
from ivr_dist.corpora.readers.safe_pickle import load_pickle
from ivr_dist.corpora.readers.texts import as_text
from ivr_dist.corpora.source import Array
from ivr_dist.errors import DataError

_MAX_PARTS = 8
"""Of an id."""
_MAX_NAMES = 20
_MAX_NAME = 80
_MAX_REPEATED = 1 << 22
"""Characters of texts that a list may have again."""


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

    def texts(self, name: str, text: Callable[[Any], str] = as_text, ids: Sequence[str] = ()) -> list[str]:
        """A list or an array of texts, one a sample.

        Args:
            name: Of the array.
            text: Makes each entry a text; see `corpora.texts`.
            ids: Of the samples, for errors, where they are known.
        """
        try:
            found = as_texts(self._get(name), text)
        except BadEntryError as error:
            who = f"sample {ids[error.number]}" if error.number < len(ids) else f"row {error.number}"
            raise self._wrong(name, f"{who}: {error.what}") from None
        except ValueError as error:
            raise self._wrong(name, str(error)) from None
        # References to one text are short.
        repeated = sum(map(len, found)) - sum(map(len, set(found)))
        if repeated > _MAX_REPEATED:
            raise self._wrong(name, f"{repeated} characters are the same texts again")
        return self._counted(name, found)  # type: ignore[no-any-return]

    def text_rows(self, name: str) -> list[list[str]]:
        """A list or an array of one or several texts a sample."""
        values = self._get(name)
        try:
            if isinstance(values, PickledArray):
                self._counted(name, values)
                flat, width = as_texts(values), len(values) and math.prod(values.shape) // len(values)
                values = [flat[row * width : (row + 1) * width] for row in range(len(values))]
            if not all(len(value) for value in values if isinstance(value, list | tuple)):
                raise ValueError("a sample without a text")
            if any(isinstance(value, list | tuple) and len(value) > _MAX_PARTS for value in values):
                raise ValueError(f"more than {_MAX_PARTS} texts a sample")
        except (TypeError, ValueError) as error:
            raise self._wrong(name, str(error)) from None
        rows = []
        for value in values:
            try:
                rows.append(as_texts(value if isinstance(value, list | tuple | PickledArray) else [value]))
            except ValueError as error:
                raise self._wrong(name, f"row {len(rows)}: {error}") from None
        return self._counted(name, rows)  # type: ignore[no-any-return]

    def numbers(self, name: str) -> Array:
        """[N, ...] a list or an array of numbers; None in a list of single ones is NaN."""
        values = self._get(name)
        try:
            if isinstance(values, PickledArray):
                values = values.load() if values.items is None else values.items
            found = values if isinstance(values, np.ndarray) else as_numbers(_without_none(values))
        except ValueError as error:
            raise self._wrong(name, str(error)) from None
        if found.dtype.kind not in "fiub" or found.ndim < 1:
            raise self._wrong(name, "not numbers of 64 bits or less" if found.dtype.kind == "O" else "not numbers")
        return self._counted(name, found)  # type: ignore[no-any-return]

    def single_numbers(self, name: str) -> Array:
        """[N] a list or an array of one number a sample."""
        found = self.numbers(name)
        if found.size != len(found):
            raise self._wrong(name, f"{list(found.shape)}, not one number a sample")
        return found.reshape(-1)

    def lengths(self, name: str) -> Array:
        """[N] int64: a list or an array of one whole number a sample."""
        found = self.single_numbers(name)
        whole = np.where(np.isfinite(found), found, -1).astype(np.int64)
        if not np.array_equal(whole, found):
            row = int(np.argmax(whole != found))
            raise self._wrong(name, f"row {row} is {found[row]}, not a whole number")
        return whole

    def steps(self, name: str) -> PickledArray:
        """[N, T, D] an array of numbers, read a sample at a time."""
        values = self._get(name)
        if not isinstance(values, PickledArray) or values.items is not None or len(values.shape) != 3:
            shape = f" of shape {list(values.shape)}" if isinstance(values, PickledArray) else ""
            raise self._wrong(name, f"not an array [samples, steps, features] of numbers{shape}")
        if not all(values.shape[1:]) or values.kind not in "fiub":
            raise self._wrong(name, f"{list(values.shape)} of {values.dtype}, not numbers of one step and more")
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


def open_splits(root: str, card: Card, file: str) -> tuple[dict[str, SplitPart], list[str]]:
    """Open a pickle of splits.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: Its splits must be those of the file; what plainly is no split, such as settings, may stand beside them.
        file: Key of the pickle.

    Returns:
        By split as the card names it; and a sentence about what was passed over, if anything was.

    Raises:
        DataError: The file is not such a pickle, or has other splits.
    """
    content = load_pickle(root, card.files[file])
    where = storage.display(storage.join(root, card.files[file].path))
    remedy = "check format and files in the card"
    if not isinstance(content, dict):
        raise DataError("not a dictionary of splits", where=where, remedy=remedy)
    parts, others = by_split(content, card, where)
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise DataError(f"split {name} is not a dictionary of arrays", where=where, remedy=remedy)
    arrays = {name for part in parts.values() for name in part}
    if any(isinstance(content[name], dict) and _is_split(content[name], arrays) for name in others):
        raise undescribed(content, card, where)
    found = {name: SplitPart(part, f"{where}, split {name}") for name, part in parts.items()}
    return found, passed_over(others, where)


def passed_over(names: Sequence[Any], where: str) -> list[str]:
    """A sentence about what a file has beside its splits, if there is anything."""
    shown = [str(name)[:_MAX_NAME] for name in names[:_MAX_NAMES]] + (["..."] if len(names) > _MAX_NAMES else [])
    return [f"passed over, since it is no split: {', '.join(shown)} ({where})"] if names else []


def by_split(content: Mapping[Any, Any], card: Card, where: str) -> tuple[dict[str, Any], list[Any]]:
    """What a file has for each split, by the card's name for it, and the keys of whatever else it has.

    Raises:
        DataError: The file does not have a split of the card.
    """
    called = {split.called or name: name for name, split in card.splits.items()}
    if not called.keys() <= content.keys():
        raise undescribed(content, card, where)
    return {name: content[there] for there, name in called.items()}, [name for name in content if name not in called]


def _is_split(values: Mapping[Any, Any], arrays: set[Any]) -> bool:
    """Whether a dictionary has samples: an array, or ids, of a name that those of the splits have.

    Settings may have the names of arrays, too, but with other things than arrays.
    """
    listed = {name for name, value in values.items() if isinstance(value, PickledArray)}
    return bool(listed & arrays) or ("id" in arrays and isinstance(values.get("id"), list | tuple))


def undescribed(content: Mapping[Any, Any], card: Card, where: str) -> DataError:
    """The error for a file that has other splits than its card."""
    called = [split.called or name for name, split in card.splits.items()]
    return DataError(
        f"the file has the splits {', '.join(map(str, content))}, the card {', '.join(called)}",
        where=where,
        remedy="describe those of the file; `called` gives a split the file's name for it",
    )


def _without_none(values: Any) -> Any:
    """A list of numbers in which NaN stands for None: the number is not known."""
    return [math.nan if value is None else value for value in values] if isinstance(values, list | tuple) else values


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
