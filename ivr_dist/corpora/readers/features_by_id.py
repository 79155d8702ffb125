"""Features of one modality in a file of their own, by the id of the utterance: an .npz file or a pickle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np

from ivr_dist import storage
from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.card_mappings import FeaturesById
from ivr_dist.corpora.files import read_source_file
from ivr_dist.corpora.readers.numpy_file import NpzFile
from ivr_dist.corpora.readers.pickle_arrays import as_rows, as_texts
from ivr_dist.corpora.readers.safe_pickle import load_pickle
from ivr_dist.corpora.readers.texts import as_text
from ivr_dist.corpora.source import Array
from ivr_dist.errors import DataError

_NPZ = ".npz"


class FeatureTable:
    """The features of one modality.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: The entry of the file in the card.
        mapping: Its arrays.

    Raises:
        DataError: The file cannot be read, lacks an array, names an id twice, or has arrays of different lengths.
    """

    def __init__(self, root: str, file: SourceFile, mapping: FeaturesById) -> None:
        self._where = storage.display(storage.join(root, file.path))
        read = _read_npz if file.path.endswith(_NPZ) else _read_pickle
        self._entries = read(root, file, mapping, self._where)

    @property
    def ids(self) -> set[str]:
        """Ids of the utterances that have features."""
        return set(self._entries)

    @property
    def width(self) -> int | None:
        """Features of a step of the first entry; None if there is none."""
        return next((self.steps(id_).shape[1] for id_ in self._entries), None)

    def steps(self, id_: str) -> Array:
        """Return the [T, D] features of an utterance; T = 0 where it has none.

        Raises:
            DataError: Its entry is not a matrix of numbers.
        """
        entry = self._entries.get(id_)
        if entry is None:
            return np.zeros((0, 0))
        try:
            steps = entry()
            if steps.ndim != 2:
                raise ValueError(f"an array of shape {list(steps.shape)} instead of [steps, features]")
        except ValueError as error:
            raise DataError(str(error), where=f"{self._where}, entry {id_}") from None
        return steps


Entries = dict[str, Callable[[], Array]]
"""By id: returns the features."""


def _read_npz(root: str, file: SourceFile, mapping: FeaturesById, where: str) -> Entries:
    archive = NpzFile(read_source_file(root, file), where)
    names = [mapping.array, mapping.ids, *([mapping.offset] if mapping.offset else [])]
    arrays = []
    for name in names:
        if name is None or name not in archive.files:
            what = "the card does not name the arrays of features and ids" if name is None else f"no array {name}"
            raise DataError(what, where=where, remedy=f"it has: {', '.join(archive.files)}")
        arrays.append(archive[name])
    values, id_array = arrays[0], arrays[1]
    ids = [as_text(value) for value in id_array.reshape(-1).tolist()]
    offset = arrays[2] if mapping.offset else np.arange(len(values) + 1)
    sound = offset.ndim == 1 and offset.dtype.kind in "iu" and len(offset) == len(ids) + 1 and values.ndim == 2
    if not sound or offset[0] != 0 or offset[-1] != len(values) or (np.diff(offset.astype(np.int64)) < 0).any():
        what = f"{list(values.shape)} features, {len(ids)} ids and {len(offset) - 1} rows do not fit together"
        raise DataError(what, where=where, remedy="save one row for each id, or an offset of the steps of each row")
    if len(set(ids)) != len(ids):
        raise DataError("an id is given twice", where=where)
    spans = pairwise(offset.tolist())
    return {id_: partial(_slice, values, *span) for id_, span in zip(ids, spans, strict=True)}


def _slice(values: Array, start: int, end: int) -> Array:
    return values[start:end]


def _read_pickle(root: str, file: SourceFile, mapping: FeaturesById, where: str) -> Entries:
    content = load_pickle(root, file)
    if not isinstance(content, dict):
        raise DataError("not a dictionary by id", where=where, remedy="check files in the card")

    def entry(value: object) -> Array:
        rows = as_rows(value)
        return rows.T if mapping.transposed else rows

    ids = as_texts(list(content))
    return {id_: partial(entry, value) for id_, value in zip(ids, content.values(), strict=True)}
