"""Pickles of MMSA, MulT and MultiBench: {split: {name: array}} with an entry for each sample."""

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
"""Maximum number of parts of an id."""
_MAX_NAMES = 20
_MAX_NAME = 80
_MAX_REPEATED = 1 << 22
"""Maximum number of characters of repeated texts in a list."""


class SplitPart:
    """The arrays of one split, each with an entry for each sample."""

    def __init__(self, values: Mapping[Any, Any], where: str) -> None:
        self._values = values
        self.where = where
        """File and split, for errors."""

    def names(self) -> list[str]:
        """List the names of its arrays."""
        return [str(name) for name in self._values]

    def has(self, name: str) -> bool:
        """Whether there is such an array, which is not None."""
        return self._values.get(name) is not None

    def __len__(self) -> int:
        arrays = [value for value in self._values.values() if isinstance(value, PickledArray)]
        if not arrays:
            raise DataError("the split has no arrays", where=self.where)
        # The arrays of time steps define the number of samples; some files have other arrays beside them.
        return len(next((array for array in arrays if len(array.shape) == 3), arrays[0]))

    def texts(self, name: str, text: Callable[[Any], str] = as_text, ids: Sequence[str] = ()) -> list[str]:
        """Read a list or an array with one text for each sample.

        Args:
            name: Name of the array.
            text: Converts each entry to text; see `readers.texts`.
            ids: Ids of the samples for errors, if they are known.
        """
        try:
            texts = as_texts(self._get(name), text)
        except BadEntryError as error:
            entry = f"sample {ids[error.number]}" if error.number < len(ids) else f"row {error.number}"
            raise self._wrong(name, f"{entry}: {error.what}") from None
        except ValueError as error:
            raise self._wrong(name, str(error)) from None
        # A file can repeat a long text by short references.
        repeated = sum(map(len, texts)) - sum(map(len, set(texts)))
        if repeated > _MAX_REPEATED:
            raise self._wrong(name, f"{repeated} characters are repeated texts")
        return self._check_count(name, texts)  # type: ignore[no-any-return]

    def text_rows(self, name: str) -> list[list[str]]:
        """Read a list or an array with one or several texts for each sample."""
        values = self._get(name)
        try:
            if isinstance(values, PickledArray):
                self._check_count(name, values)
                flat, width = as_texts(values), len(values) and math.prod(values.shape) // len(values)
                values = [flat[row * width : (row + 1) * width] for row in range(len(values))]
            if not all(len(value) for value in values if isinstance(value, list | tuple)):
                raise ValueError("a sample without a text")
            if any(isinstance(value, list | tuple) and len(value) > _MAX_PARTS for value in values):
                raise ValueError(f"a sample with more than {_MAX_PARTS} texts")
        except (TypeError, ValueError) as error:
            raise self._wrong(name, str(error)) from None
        rows = []
        for value in values:
            try:
                rows.append(as_texts(value if isinstance(value, list | tuple | PickledArray) else [value]))
            except ValueError as error:
                raise self._wrong(name, f"row {len(rows)}: {error}") from None
        return self._check_count(name, rows)  # type: ignore[no-any-return]

    def numbers(self, name: str) -> Array:
        """Read a list or an array of numbers, [N, ...]; None in a list of single numbers becomes NaN."""
        values = self._get(name)
        try:
            if isinstance(values, PickledArray):
                values = values.load() if values.items is None else values.items
            numbers = values if isinstance(values, np.ndarray) else as_numbers(_without_none(values))
        except ValueError as error:
            raise self._wrong(name, str(error)) from None
        if numbers.dtype.kind not in "fiub" or numbers.ndim < 1:
            raise self._wrong(name, "not numbers of 64 bits or less" if numbers.dtype.kind == "O" else "not numbers")
        return self._check_count(name, numbers)  # type: ignore[no-any-return]

    def single_numbers(self, name: str) -> Array:
        """Read a list or an array with one number for each sample, [N]."""
        numbers = self.numbers(name)
        if numbers.size != len(numbers):
            raise self._wrong(name, f"{list(numbers.shape)}, not one number for each sample")
        return numbers.reshape(-1)

    def lengths(self, name: str) -> Array:
        """Read a list or an array with one whole number for each sample, [N] int64."""
        numbers = self.single_numbers(name)
        whole = np.where(np.isfinite(numbers), numbers, -1).astype(np.int64)
        if not np.array_equal(whole, numbers):
            row = int(np.argmax(whole != numbers))
            raise self._wrong(name, f"row {row} is {numbers[row]}, not a whole number")
        return whole

    def steps(self, name: str) -> PickledArray:
        """Return an array of numbers [N, T, D], which is read a sample at a time."""
        values = self._get(name)
        if not isinstance(values, PickledArray) or values.items is not None or len(values.shape) != 3:
            shape = f" of shape {list(values.shape)}" if isinstance(values, PickledArray) else ""
            raise self._wrong(name, f"not an array [samples, steps, features] of numbers{shape}")
        if not all(values.shape[1:]) or values.kind not in "fiub":
            raise self._wrong(name, f"{list(values.shape)} of {values.dtype}, not numbers of at least one step")
        return self._check_count(name, values)  # type: ignore[no-any-return]

    def _get(self, name: str) -> Any:
        if not self.has(name):
            remedy = f"it has: {', '.join(self.names())}; correct the card"
            raise DataError(f"no array {name}", where=self.where, remedy=remedy)
        return self._values[name]

    def _check_count(self, name: str, entries: Any) -> Any:
        if len(entries) != len(self):
            raise self._wrong(name, f"{len(entries)} entries for {len(self)} samples")
        return entries

    def _wrong(self, name: str, what: str) -> DataError:
        return DataError(f"array {name}: {what}", where=self.where)


def open_splits(root: str, card: Card, file: str) -> tuple[dict[str, SplitPart], list[str]]:
    """Open a pickle of splits.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: The card, whose splits must be those of the file; other entries, such as settings, are skipped.
        file: Key of the pickle.

    Returns:
        The parts by the card's name of the split; and a sentence about entries that were skipped, if there are any.

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
    split_parts = {name: SplitPart(part, f"{where}, split {name}") for name, part in parts.items()}
    return split_parts, skipped_note(others, where)


def skipped_note(names: Sequence[Any], where: str) -> list[str]:
    """Make a sentence about the entries of a file that are not splits, if there are any."""
    listed = [str(name)[:_MAX_NAME] for name in names[:_MAX_NAMES]] + (["..."] if len(names) > _MAX_NAMES else [])
    return [f"skipped, because it is not a split: {', '.join(listed)} ({where})"] if names else []


def by_split(content: Mapping[Any, Any], card: Card, where: str) -> tuple[dict[str, Any], list[Any]]:
    """Return the entries of a file for each split, by the card's name of the split, and the keys of other entries.

    Raises:
        DataError: The file does not have a split of the card.
    """
    called = {split.called or name: name for name, split in card.splits.items()}
    if not called.keys() <= content.keys():
        raise undescribed(content, card, where)
    return {name: content[key] for key, name in called.items()}, [key for key in content if key not in called]


def _is_split(values: Mapping[Any, Any], arrays: set[Any]) -> bool:
    """Whether a dictionary has samples: an array, or ids, with a name that occurs in the splits.

    Settings may have names of arrays as well, but their values are not arrays.
    """
    listed = {name for name, value in values.items() if isinstance(value, PickledArray)}
    return bool(listed & arrays) or ("id" in arrays and isinstance(values.get("id"), list | tuple))


def undescribed(content: Mapping[Any, Any], card: Card, where: str) -> DataError:
    """Make the error for a file that has other splits than its card."""
    called = [split.called or name for name, split in card.splits.items()]
    return DataError(
        f"the file has the splits {', '.join(map(str, content))}, the card {', '.join(called)}",
        where=where,
        remedy="describe the splits of the file; `called` is the name of a split in the file",
    )


def _without_none(values: Any) -> Any:
    """Replace None in a list of numbers by NaN."""
    return [math.nan if value is None else value for value in values] if isinstance(values, list | tuple) else values


def widths(parts: Mapping[str, SplitPart], arrays: Mapping[str, str]) -> dict[str, int]:
    """Find the features of a time step by modality, which must be the same in every split.

    Args:
        parts: Parts by split.
        arrays: Name of the array by modality.
    """
    dims: dict[str, int] = {}
    for part in parts.values():
        for modality, name in arrays.items():
            width = part.steps(name).shape[2]
            if dims.setdefault(modality, width) != width:
                raise DataError(
                    f"array {name} has {width} features here and {dims[modality]} in another split", where=part.where
                )
    return dims


def group_of(id_: str, separator: str, where: str) -> str | None:
    """Extract the video from a sample's id; None without a separator.

    Raises:
        DataError: The id does not contain the separator.
    """
    if not separator:
        return None
    group, matched, _ = id_.rpartition(separator)
    if not matched:
        remedy = "set the separator of the ids in the card, or an empty one if they do not name a video"
        raise DataError(
            f"id {id_} does not contain {separator}, the separator after its video", where=where, remedy=remedy
        )
    return group
