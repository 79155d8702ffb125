"""Computational sequences of the CMU Multimodal SDK (.csd): HDF5 files of <name>/data/<video>/{features, intervals}.

HDF5 files can refer to other files and claim any size. So every link must be a hard link, and every data set must be
stored in the file itself and be no larger than its compressed bytes can represent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from ivr_dist import storage
from ivr_dist.common.file_signatures import HEAD, is_text
from ivr_dist.common.library_errors import describe
from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.files import open_source_file, refuse_other
from ivr_dist.corpora.readers.texts import as_text
from ivr_dist.corpora.source import Array
from ivr_dist.errors import DataError

_MAX_ROWS = 1 << 24
"""Maximum number of rows of a video: two days at 100 a second."""
_MAX_RATIO = 1100
"""Maximum compression ratio; that of deflate is 1032."""
_MAX_CHUNK = 64 << 20
"""Maximum bytes of an uncompressed chunk; h5py's default is at most 1 MiB."""
_MAX_WORD = 1000
_WORDS_AT_ONCE = 64
"""Number of words read at a time; few, because many words of variable length can refer to the same long text."""
_REMEDY = "get the file again; it is damaged, or malicious"
_BROKEN = (AttributeError, KeyError, MemoryError, OSError, OverflowError, RuntimeError, TypeError, ValueError)
"""Errors that h5py raises for damaged files, in any call."""


class CsdFile:
    """A computational sequence whose rows are read on access.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: Its entry in the card.

    Raises:
        DataError: It is missing, not a computational sequence, or refers to other files.
    """

    def __init__(self, root: str, file: SourceFile) -> None:
        self.where = storage.display(storage.join(root, file.path))
        """Name of the file, for errors."""
        stream = open_source_file(root, file)
        refuse_other(stream.read(HEAD), "an HDF5 file", self.where, "an HDF5 file")
        stream.seek(0)
        try:
            self._hdf5 = h5py.File(stream, "r")
        except _BROKEN as error:
            remedy = "check files in the card"
            raise DataError(f"not an HDF5 file: {describe(error)}", where=self.where, remedy=remedy) from None
        names = self._names(self._hdf5, "the file")
        if len(names) != 1:
            raise self._refused(f"it holds {len(names)} sequences instead of one")
        self._sequence = self._group(self._hdf5, names[0])
        self._data = self._group(self._sequence, "data")
        self.videos = self._names(self._data, "data")
        """Names of all videos."""
        self._video_set = frozenset(self.videos)
        self.dim: int | None = None
        """Features of a row, where rows are numbers; None where they are words, or there are no rows."""
        self._of_words: bool | None = None
        for video in self.videos:
            self._check(video)

    def __contains__(self, video: str) -> bool:
        return video in self._video_set

    def column_names(self) -> list[str] | None:
        """Read the names of the features of a row from the metadata; None where it has none."""
        try:
            described = self._dataset(self._group(self._sequence, "metadata"), "dimension names")
            names = json.loads(self._read(described, slice(None))[0])
        except (DataError, IndexError, TypeError, ValueError, RecursionError):
            return None
        return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

    def intervals(self, video: str) -> Array:
        """Read start and end of each row in seconds, [n, 2] float64."""
        return np.asarray(self._read(self._part(video, "intervals"), slice(None)), np.float64)

    def rows(self, video: str, start: int, end: int) -> Array:
        """Read the rows [start, end) of numbers, [end - start, D]."""
        return np.asarray(self._read(self._part(video, "features"), slice(start, end)))

    def words(self, video: str) -> list[str]:
        """Read the rows as words.

        Raises:
            DataError: They are numbers.
        """
        features = self._part(video, "features")
        if features.dtype.kind not in "SO":
            raise DataError(f"the rows of {video} are numbers, not words", where=self.where)
        words: list[str] = []
        at_once = max(1, len(features)) if features.dtype.kind == "S" else _WORDS_AT_ONCE
        for start in range(0, len(features), at_once):
            values = self._read(features, slice(start, start + at_once)).reshape(-1).tolist()
            words += [self._word(value, video) for value in values]
            if sum(map(len, words[start:])) > _MAX_WORD * len(values):
                raise self._refused(f"the words of {video} have more than {_MAX_WORD} characters")
        return words

    def _check(self, video: str) -> None:
        group = self._group(self._data, video)
        features, intervals = self._dataset(group, "features"), self._dataset(group, "intervals")
        words = features.dtype.kind == "S" or h5py.check_string_dtype(features.dtype) is not None
        if not words and (features.dtype.kind not in "fiu" or features.ndim != 2):
            raise self._refused(f"features of {video} are {list(features.shape)} of {features.dtype}")
        if intervals.dtype.kind not in "fiu":
            raise self._refused(f"intervals of {video} are {list(intervals.shape)} of {intervals.dtype}, not numbers")
        if intervals.shape != (features.shape[0], 2):
            raise self._refused(f"{video} has {list(features.shape)} features and {list(intervals.shape)} intervals")
        if self._of_words not in (None, words):
            raise self._refused(f"the rows of {video} are {'words' if words else 'numbers'}, those of others are not")
        self._of_words = words
        if words:
            if features.size != features.shape[0]:
                raise self._refused(f"{video} has several words in a row")
        elif self.dim is None:
            self.dim = features.shape[1]
        elif self.dim != features.shape[1]:
            raise self._refused(f"rows of {video} have {features.shape[1]} features, of others {self.dim}")

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except _BROKEN as error:
            raise self._refused(f"{what} cannot be read: {describe(error)}") from None

    def _names(self, group: Any, what: str) -> list[str]:
        with self._reading(what):
            return list(group)

    def _object(self, group: Any, name: str) -> Any:
        # h5py returns names that it cannot decode as bytes.
        if not (isinstance(name, str) and is_text(name)):
            raise self._refused(f"the name {name!r} is not UTF-8")
        with self._reading(name):
            link = group.get(name, getlink=True)
        if link is None:
            raise self._refused(f"there is no {name}")
        if not isinstance(link, h5py.HardLink):
            where = "another file" if isinstance(link, h5py.ExternalLink) else "another path"
            raise self._refused(f"{name} is a link to {where}")
        with self._reading(name):
            return group[name]

    def _group(self, parent: Any, name: str) -> Any:
        group = self._object(parent, name)
        if not isinstance(group, h5py.Group):
            raise self._refused(f"{name} is not a group")
        return group

    def _dataset(self, parent: Any, name: str) -> Any:
        dataset = self._object(parent, name)
        if not isinstance(dataset, h5py.Dataset):
            raise self._refused(f"{name} is not a data set")
        with self._reading(name):
            is_external = dataset.is_virtual or dataset.external
            shape, stored, width = dataset.shape or (), dataset.id.get_storage_size(), dataset.dtype.itemsize
            chunk = math.prod(dataset.chunks or ()) * width
        if is_external:
            raise self._refused(f"{dataset.name} is stored in other files")
        if not shape or shape[0] > _MAX_ROWS or math.prod(shape) * width > stored * _MAX_RATIO:
            raise self._refused(f"{dataset.name} is {list(shape)} of {dataset.dtype}, in {stored} bytes")
        # Reading one row uncompresses its whole chunk.
        if chunk > _MAX_CHUNK:
            raise self._refused(f"{dataset.name} is stored in chunks of {chunk} bytes, more than {_MAX_CHUNK}")
        return dataset

    def _part(self, video: str, name: str) -> Any:
        """Return a data set of a video, which was checked when the file was opened."""
        with self._reading(f"{name} of {video}"):
            return self._data[video][name]

    def _read(self, dataset: Any, rows: slice) -> Any:
        with self._reading(str(dataset.name)):
            return dataset[rows]

    def _word(self, value: Any, video: str) -> str:
        try:
            return as_text(value)
        except ValueError as error:
            raise DataError(f"a word of {video}: {error}", where=self.where, remedy="encode it as UTF-8") from None

    def _refused(self, what: str) -> DataError:
        return DataError(what, where=self.where, remedy=_REMEDY)
