"""Sample hashes: 64 bits of the id, the group and the normalized text of every sample of a split, for leakage checks.

`manifest.hashes` stands beside the manifest, which names it with its checksum. It holds, for each of the three, rows of
a hash and a sample number, sorted by hash, in blocks, behind a directory of the blocks:

    counts  int64 [3]                rows of ids, groups and texts
    first   uint64 [blocks]          first hash of each block
    xxh3    uint64 [blocks]          xxh3-64 of the bytes of each block
    rows    uint64 [rows, 2]         hash, number of the sample

each as `.npy`, one behind the other. So a few hashes are looked up with a few range requests, whatever the size of the
split; the checksum in the manifest is that of the directory, whose checksums cover the rows.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from ivr_dist import storage
from ivr_dist.common.normalized_text import text_hash
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.shards import npy
from ivr_dist.shards.sample_ids import id_hash
from ivr_dist.shards.specs import HashesEntry
from ivr_dist.shards.splits import group_of

HASHES_NAME = "manifest.hashes"
VERSION = 1
Kind = Literal["id", "group", "text"]
KINDS: tuple[Kind, ...] = ("id", "group", "text")

UInt64Array = npt.NDArray[np.uint64]
Int64Array = npt.NDArray[np.int64]

BLOCK_ROWS = 1 << 14
_ROW_BYTES = 16
_BLOCKS_AT_ONCE = 16
_THREADS = 8
_MAX_ROWS = 1 << 48
_READ_WHOLE = 8 << 20
"""Bytes up to which the file is read at once: fewer requests, and servers without ranges will do."""
_REMEDY = "copy the split again from where it was packed, or pack it again"


def name_hash(name: str, corpus: str) -> int:
    """Hash an id or a group; never 0.

    A whole number identifies nothing outside its corpus, so that its hash depends on the corpus.
    """
    return id_hash(f"{corpus}\n{name}" if name.isdecimal() else name) or 1


def hashes_of(metadata: Mapping[str, Any], id_: str, corpus: str) -> tuple[int, int, int]:
    """Hash id, group and text of a sample; 0 where it has no group, or no text that can be compared.

    Args:
        metadata: The sample's JSON.
        id_: Its id.
        corpus: The corpus of its manifest.
    """
    group, transcript = group_of(metadata, id_), metadata.get("transcript")
    if isinstance(transcript, list) and all(isinstance(word, str) for word in transcript):
        transcript = " ".join(transcript)
    text = text_hash(transcript) if isinstance(transcript, str) else 0
    return name_hash(id_, corpus), 0 if group is None else name_hash(group, corpus), text


@dataclass(frozen=True)
class HashRows:
    """A file of hashes in memory, in the parts in which it is written."""

    directory: bytes
    rows: tuple[UInt64Array, ...]
    """By kind: [n, 2] hash and sample number, sorted by both."""

    @classmethod
    def of(cls, hashes: Sequence[npt.ArrayLike] | UInt64Array) -> HashRows:
        """Sort the hashes of a split.

        Args:
            hashes: [N, 3] hashes of id, group and text of each sample in the order of the manifest; 0 for none.
        """
        columns = np.asarray(hashes, np.uint64).reshape(-1, len(KINDS))
        rows = tuple(map(_sorted_rows, columns.T))
        blocks = [block for part in rows for block in _blocks(part)]
        out = io.BytesIO()
        counts = np.array([len(part) for part in rows], "<i8")
        first = np.array([block[0, 0] for block in blocks], "<u8")
        xxh3 = np.array([xxhash.xxh3_64_intdigest(block.data.cast("B")) for block in blocks], "<u8")
        for column in (counts, first, xxh3):
            np.lib.format.write_array(out, column, (1, 0), allow_pickle=False)
        out.write(npy.header("<u8", (int(counts.sum()), 2)))
        return cls(out.getvalue(), rows)

    @property
    def entry(self) -> HashesEntry:
        """What the manifest says about the file."""
        size = len(self.directory) + sum(part.nbytes for part in self.rows)
        return HashesEntry(
            name=HASHES_NAME,
            version=VERSION,
            bytes=size,
            directory_bytes=len(self.directory),
            sha256=hashlib.sha256(self.directory).hexdigest(),
        )

    def save(self, split_url: str) -> None:
        """Write the file; the manifest that names it is written later."""
        url = storage.join(split_url, HASHES_NAME)
        storage.write_buffers(url, [self.directory, *(part.data.cast("B") for part in self.rows if part.size)])

    def table(self) -> HashTable:
        """Return a table that looks up in memory."""
        joined = np.concatenate(self.rows)
        return HashTable(self.directory, lambda first, end: joined[first:end], "hashes in memory")


class HashTable:
    """Lookup of hashes in a file of which only the directory is in memory.

    Args:
        directory: The beginning of the file, up to the rows.
        read: Reads rows [first, end), as [n, 2] uint64.
        where: Name of the file, for errors.

    Raises:
        CorruptDataError: The directory is damaged.
    """

    def __init__(self, directory: bytes, read: Callable[[int, int], UInt64Array], where: str) -> None:
        self._read = read
        self._where = where
        counts, self._first, self._xxh3 = _parse_directory(directory, where)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._block_starts = np.concatenate([[0], np.cumsum(-(-counts // BLOCK_ROWS))])
        if not len(self._first) == len(self._xxh3) == self._block_starts[-1]:
            raise _damaged("the directory does not list its blocks", where)

    @classmethod
    def open(cls, split_url: str, entry: HashesEntry) -> HashTable:
        """Open the file of a split; only its directory is read, unless the file is small.

        Raises:
            DataError: The file is missing.
            CorruptDataError: The directory is damaged, or of another version.
            StorageError: It cannot be read.
        """
        url = storage.join(split_url, HASHES_NAME)
        try:
            if entry.bytes <= _READ_WHOLE:
                return cls.from_bytes(storage.read_bytes(url), entry, storage.display(url))
            directory = storage.read_range(url, 0, entry.directory_bytes)
        except storage.NotFoundError as error:
            raise DataError(
                "the hashes of samples that the manifest names are missing", where=storage.display(url), remedy=_REMEDY
            ) from error

        def read(first: int, end: int) -> UInt64Array:
            start, stop = (entry.directory_bytes + row * _ROW_BYTES for row in (first, end))
            return np.frombuffer(storage.read_range(url, start, stop), "<u8").reshape(-1, 2)

        return cls._checked(directory, read, entry, storage.display(url))

    @classmethod
    def from_bytes(cls, data: bytes, entry: HashesEntry, where: str) -> HashTable:
        """Open a file in memory.

        Raises:
            CorruptDataError: Its size or directory differs from the manifest, or it is of another version.
        """
        if len(data) != entry.bytes:
            raise _damaged(f"the hashes have {len(data)} bytes, the manifest says {entry.bytes}", where)
        if (entry.bytes - entry.directory_bytes) % _ROW_BYTES:
            raise _damaged("the hashes are no whole rows", where)
        rows = np.frombuffer(data, "<u8", offset=entry.directory_bytes).reshape(-1, 2)
        return cls._checked(data[: entry.directory_bytes], lambda first, end: rows[first:end], entry, where)

    @classmethod
    def _checked(
        cls, directory: bytes, read: Callable[[int, int], UInt64Array], entry: HashesEntry, where: str
    ) -> HashTable:
        if entry.version != VERSION:
            raise CorruptDataError(
                f"the hashes have version {entry.version}, this program reads {VERSION}", where=where, remedy=_REMEDY
            )
        if hashlib.sha256(directory).hexdigest() != entry.sha256:
            raise _damaged("the hashes do not belong to the manifest (their checksum differs)", where)
        return cls(directory, read, where)

    def count(self, kind: Kind) -> int:
        """Count the samples that have such a hash."""
        number = KINDS.index(kind)
        return int(self._starts[number + 1] - self._starts[number])

    def rows(self, kind: Kind) -> Iterator[UInt64Array]:
        """Read all rows of a kind, some blocks at a time: [n, 2] hash and sample number, sorted.

        Raises:
            CorruptDataError: They do not match their checksum.
            StorageError: They cannot be read.
        """
        number = KINDS.index(kind)
        blocks = range(int(self._block_starts[number]), int(self._block_starts[number + 1]))
        for first in blocks[::_BLOCKS_AT_ONCE]:
            yield self._load(number, first, min(first + _BLOCKS_AT_ONCE, blocks.stop))

    def find(self, kind: Kind, hashes: UInt64Array) -> tuple[UInt64Array, Int64Array]:
        """Look up hashes.

        Args:
            kind: What they are hashes of.
            hashes: Ascending and distinct.

        Returns:
            [n] hash and [n] number of every sample that has one of them, ordered by hash, then number.

        Raises:
            CorruptDataError: Rows do not match their checksum.
            StorageError: They cannot be read.
        """
        number = KINDS.index(kind)
        begin, stop = int(self._block_starts[number]), int(self._block_starts[number + 1])
        if begin == stop or not hashes.size:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        first = self._first[begin:stop]
        # Equal hashes may begin at the end of the block before.
        low = np.maximum(np.searchsorted(first, hashes, side="left") - 1, 0)
        high = np.searchsorted(first, hashes, side="right")
        change = np.zeros(len(first) + 1, np.int64)
        np.add.at(change, low, 1)
        np.add.at(change, np.maximum(high, low), -1)
        needed = np.flatnonzero(np.cumsum(change[:-1]) > 0)
        runs = [run for part in np.split(needed, np.flatnonzero(np.diff(needed) > 1) + 1) for run in _cut(part)]

        def matches(run: npt.NDArray[np.int64]) -> UInt64Array:
            rows = self._load(number, begin + int(run[0]), begin + int(run[-1]) + 1)
            positions = np.minimum(np.searchsorted(hashes, rows[:, 0]), hashes.size - 1)
            matching: UInt64Array = rows[hashes[positions] == rows[:, 0]]
            return matching

        with ThreadPoolExecutor(_THREADS) as pool:
            found = np.concatenate([np.zeros((0, 2), np.uint64), *pool.map(matches, runs)])
        return found[:, 0], found[:, 1].astype(np.int64)

    def _load(self, kind: int, first: int, end: int) -> UInt64Array:
        """Read and verify blocks of a kind."""
        start = int(self._starts[kind]) + (first - int(self._block_starts[kind])) * BLOCK_ROWS
        stop = min(start + (end - first) * BLOCK_ROWS, int(self._starts[kind + 1]))
        rows = self._read(start, stop)
        if len(rows) != stop - start:
            raise _damaged("the hashes end early", self._where)
        for block, part in zip(range(first, end), _blocks(rows), strict=True):
            if xxhash.xxh3_64_intdigest(np.ascontiguousarray(part).data.cast("B")) != int(self._xxh3[block]):
                raise _damaged(f"block {block} of the hashes does not match its checksum", self._where)
        return rows


def _sorted_rows(hashes: UInt64Array) -> UInt64Array:
    numbers = np.flatnonzero(hashes)
    order = np.argsort(hashes[numbers], kind="stable")
    rows = np.empty((len(numbers), 2), "<u8")
    rows[:, 0], rows[:, 1] = hashes[numbers][order], numbers[order]
    return rows


def _blocks(rows: UInt64Array) -> list[UInt64Array]:
    return [rows[first : first + BLOCK_ROWS] for first in range(0, len(rows), BLOCK_ROWS)]


def _cut(blocks: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return [blocks[first : first + _BLOCKS_AT_ONCE] for first in range(0, len(blocks), _BLOCKS_AT_ONCE)]


def _parse_directory(data: bytes, where: str) -> tuple[Int64Array, UInt64Array, UInt64Array]:
    columns, start = [], 0
    for name in ("counts", "first", "xxh3"):
        shape, dtype, _, head = npy.parse_header(memoryview(data)[start:], f"{where}, {name}")
        end = start + head + int(np.prod(shape)) * dtype.itemsize
        columns.append(npy.parse(data, f"{where}, {name}", start=start, end=min(end, len(data))))
        start = end
    counts, first, xxh3 = columns
    if counts.shape != (len(KINDS),) or counts.dtype != np.int64 or not all(0 <= n < _MAX_ROWS for n in counts):
        raise _damaged("the directory has no counts", where)
    if any(column.ndim != 1 or column.dtype != np.uint64 for column in (first, xxh3)):
        raise _damaged("the directory's columns are not of hashes", where)
    return counts, first, xxh3


def _damaged(what: str, where: str) -> CorruptDataError:
    return CorruptDataError(what, where=where, remedy=_REMEDY)
