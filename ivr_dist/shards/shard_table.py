"""Shard table: the shards of a manifest as a list of entries or, for many shards, as columns.

Two million entries as JSON take a minute to read and gigabytes of memory. As columns they are one file beside the
manifest that is used without decoding: an entry is made on access.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import xxhash

from ivr_dist.errors import CorruptDataError
from ivr_dist.sanitize import shorten
from ivr_dist.shards import npy

_COLUMNS = ("samples", "tar_bytes", "index_bytes", "sha256", "index_sha256", "names")
"""In the order of the file: numbers first, so that all are aligned."""
_SUFFIX, _INDEX_SUFFIX = ".tar", ".idx"
_NEWLINE, _DOT = b"\n."
# Slashes of either kind, and DEL.
_UNSAFE = b"/\\\x7f"
_FIRST_PRINTED = 32


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """The index file of a shard."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar file."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index: IndexEntry


class ShardColumns(Sequence[ShardEntry]):
    """Entries of many shards, made on access.

    Args:
        samples: [S] int64.
        tar_bytes: [S] int64.
        index_bytes: [S] int64.
        sha256: [S, 32] uint8, checksums of the tars.
        index_sha256: [S, 32] uint8, checksums of the indexes.
        names: UTF-8 bytes of the names of the tars, each with a newline behind it; an index has `.idx` for `.tar`.

    Raises:
        ValueError: The columns do not match.
    """

    def __init__(
        self,
        samples: npt.NDArray[np.int64],
        tar_bytes: npt.NDArray[np.int64],
        index_bytes: npt.NDArray[np.int64],
        sha256: npt.NDArray[np.uint8],
        index_sha256: npt.NDArray[np.uint8],
        names: npt.NDArray[np.uint8],
    ) -> None:
        self.samples = samples
        self.tar_bytes = tar_bytes
        self._index_bytes = index_bytes
        self._sha256 = sha256
        self._index_sha256 = index_sha256
        self._names = names
        self._file: bytes | None = None
        self._ends = np.flatnonzero(names == _NEWLINE)
        count = len(self._ends)
        numbers, hashes = (samples, tar_bytes, index_bytes), (sha256, index_sha256)
        if any(column.shape != (count,) or column.dtype != np.int64 for column in numbers):
            raise ValueError(f"the columns do not have {count} numbers each")
        if any(column.shape != (count, 32) or column.dtype != np.uint8 for column in hashes):
            raise ValueError(f"the columns do not have {count} checksums each")
        self._check_names()

    @classmethod
    def of(cls, entries: Sequence[ShardEntry]) -> ShardColumns:
        """Convert entries to columns.

        Raises:
            ValueError: A shard is not named `NAME.tar`, or its index not `NAME.idx`.
        """
        for entry in entries:
            stem = entry.name.removesuffix(_SUFFIX)
            if (entry.name, entry.index.name) != (stem + _SUFFIX, stem + _INDEX_SUFFIX):
                raise ValueError(f"{entry.name} with index {entry.index.name} is not named as shards are")

        def hashes(values: list[str]) -> npt.NDArray[np.uint8]:
            return np.frombuffer(b"".join(map(bytes.fromhex, values)), np.uint8).reshape(-1, 32)

        return cls(
            np.array([entry.samples for entry in entries], np.int64),
            np.array([entry.bytes for entry in entries], np.int64),
            np.array([entry.index.bytes for entry in entries], np.int64),
            hashes([entry.sha256 for entry in entries]),
            hashes([entry.index.sha256 for entry in entries]),
            np.frombuffer("".join(f"{entry.name}\n" for entry in entries).encode(), np.uint8),
        )

    def to_bytes(self) -> bytes:
        """Encode as a file: the columns as `.npy`, concatenated."""
        if self._file is not None:
            return self._file
        out = io.BytesIO()
        columns = (self.samples, self.tar_bytes, self._index_bytes, self._sha256, self._index_sha256, self._names)
        for column in columns:
            np.lib.format.write_array(out, column, (1, 0), allow_pickle=False)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> ShardColumns:
        """Decode the file, without copying it.

        Raises:
            CorruptDataError: It is damaged.
        """
        columns: dict[str, npt.NDArray[Any]] = {}
        start = 0
        for name in _COLUMNS:
            shape, dtype, _, head = npy.parse_header(memoryview(data)[start:], f"{where}, {name}")
            end = min(start + head + int(np.prod(shape)) * dtype.itemsize, len(data))
            columns[name] = npy.parse(data, f"{where}, {name}", start=start, end=end)
            start = end
        try:
            if start != len(data):
                raise ValueError(f"{len(data) - start} bytes follow the columns")
            table = cls(**columns)
        except ValueError as error:
            raise CorruptDataError(
                f"the table of shards cannot be read: {error}", where=where, remedy="pack the split again"
            ) from error
        table._file = data
        return table

    def __len__(self) -> int:
        """Count the shards."""
        return len(self._ends)

    @overload
    def __getitem__(self, number: int) -> ShardEntry: ...

    @overload
    def __getitem__(self, number: slice) -> list[ShardEntry]: ...

    def __getitem__(self, number: int | slice) -> ShardEntry | list[ShardEntry]:
        """Make one entry, or the entries of a slice."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        name = self._name(number).decode()
        return ShardEntry(
            name=name,
            samples=int(self.samples[number]),
            bytes=int(self.tar_bytes[number]),
            sha256=self._sha256[number].tobytes().hex(),
            index=IndexEntry(
                name=name.removesuffix(_SUFFIX) + _INDEX_SUFFIX,
                bytes=int(self._index_bytes[number]),
                sha256=self._index_sha256[number].tobytes().hex(),
            ),
        )

    def __eq__(self, other: object) -> bool:
        """Whether the entries are the same."""
        return isinstance(other, ShardColumns) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    def _name(self, number: int) -> bytes:
        start = int(self._ends[number - 1]) + 1 if number else 0
        return self._names[start : int(self._ends[number])].tobytes()

    def _check_names(self) -> None:
        """Refuse names that lead out of the split, or that two shards share."""
        names = self._names
        if len(names) and names[-1] != _NEWLINE:
            raise ValueError("the last name is cut off")
        if (names >= 128).any():
            names.tobytes().decode()  # raises a ValueError
        unsafe = any((names == byte).any() for byte in _UNSAFE)
        # The newline behind each name is the only control character.
        unsafe |= np.count_nonzero(names < _FIRST_PRINTED) != len(self._ends)
        if unsafe or (names[np.concatenate([[0], self._ends + 1])[:-1]] == _DOT).any():
            raise ValueError("a shard's name is not that of a file beside the manifest")
        hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, self._split_names()), np.uint64, len(self))
        hashes.sort()
        if (hashes[1:] == hashes[:-1]).any():
            raise ValueError("two shards have the same name")

    def _split_names(self) -> Sequence[bytes]:
        names = self._names.tobytes().split(b"\n")[:-1]
        for name in (name for name in names if not name.endswith(_SUFFIX.encode()) or name == _SUFFIX.encode()):
            text = shorten(name.decode(errors="backslashreplace"), 40)
            raise ValueError(f"{text!r} is not the name of a shard")
        return names
