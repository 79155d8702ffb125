"""Cached states of texts: what the frozen first layers of a pretrained encoder make of each text, computed once.

States are found by the pieces of the text (a hash of their ids), so that the order of the samples, the split and the
corpus of a text do not matter. A directory holds groups, each written by one run of the texts that were missing, of one
part for each worker:

    GROUP/states.json               number of the parts, and what the directory holds from then on
    GROUP/part-00000/keys.npy       [2, n] uint64, halves of the hash of each text's pieces, which orders the texts
    GROUP/part-00000/ends.npy       [n + 1] int64, where the states of each text begin, and the end
    GROUP/part-00000/states.npy     [P, D] float32, one row for each piece
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.common.decoder import decode
from ivr_dist.errors import CorruptDataError, StorageError
from ivr_dist.units import format_bytes

Float32Array = npt.NDArray[np.float32]
Key = tuple[int, int]

RECORD = "states.json"
UNFINISHED = ".tmp"
"""End of the name of a group that is being written."""
_ABANDONED_S = 24 * 3600.0


def key_of(ids: Sequence[int]) -> Key:
    """Hash the pieces of a text to two numbers below 2**64."""
    digest = hashlib.blake2b(np.asarray(ids, "<i8").tobytes(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


@dataclass(frozen=True)
class Group:
    """A complete group."""

    url: str
    parts: int
    width: int
    """D."""
    covers: str
    """What the directory holds since this group was written: all texts of a selection of samples."""


def groups(folder: str) -> list[Group]:
    """List the complete groups of a directory; none if there is no directory.

    Raises:
        CorruptDataError: A record is damaged.
    """
    found = []
    for name in sorted({url.split("/")[0] for url in storage.list_files(folder) if url.endswith(f"/{RECORD}")}):
        url = storage.join(folder, name)
        if not name.endswith(UNFINISHED):
            record = decode(_Record, storage.read_json(storage.join(url, RECORD)))
            found.append(Group(url, record.parts, record.width, record.covers))
    return found


@dataclass(frozen=True)
class _Record:
    parts: int
    width: int
    covers: str


class TextStates:
    """Reads the states of texts; thread-safe.

    Args:
        found: Groups, of any directories.

    Raises:
        CorruptDataError: A part is missing or damaged.
    """

    def __init__(self, found: Sequence[Group]) -> None:
        self.width = found[0].width if found else 0
        """D."""
        self._parts = [_Part(_part(group.url, number)) for group in found for number in range(group.parts)]

    def __contains__(self, key: Key) -> bool:
        return any(part.find(key) is not None for part in self._parts)

    def find(self, ids: Sequence[int]) -> Float32Array:
        """Return the states of a text, [pieces, D].

        Args:
            ids: Its pieces, special ones included.

        Raises:
            CorruptDataError: There are none.
        """
        key = key_of(ids)
        for part in self._parts:
            states = part.find(key)
            if states is not None and len(states) == len(ids):
                return states
        raise CorruptDataError(
            "the cached states lack a text of the run",
            where=", ".join(sorted({str(part.place.parent.parent) for part in self._parts})),
            remedy="delete these directories; the states are computed again",
        )


class _Part:
    def __init__(self, folder: Path) -> None:
        self.place = folder
        try:
            self._keys = np.load(folder / "keys.npy")
            self._ends = np.load(folder / "ends.npy")
            self._states: Float32Array = np.load(folder / "states.npy", mmap_mode="r")
            fits = self._keys.shape[1] + 1 == len(self._ends) and self._ends[-1] == len(self._states)
        except (OSError, ValueError) as error:
            raise CorruptDataError(
                f"cached states of texts cannot be read: {error}", where=str(folder), remedy="delete the directory"
            ) from error
        if not fits:
            raise CorruptDataError("cached states of texts are cut", where=str(folder), remedy="delete the directory")

    def find(self, key: Key) -> Float32Array | None:
        row = int(np.searchsorted(self._keys[0], np.uint64(key[0])))
        while row < self._keys.shape[1] and self._keys[0, row] == key[0]:
            if self._keys[1, row] == key[1]:
                return self._states[self._ends[row] : self._ends[row + 1]]
            row += 1
        return None


def remove_abandoned(folder: str) -> None:
    """Delete groups that a run which was killed left unfinished, a day or longer ago."""
    for place in Path(storage.local_path(folder)).glob(f"*{UNFINISHED}"):
        with suppress(OSError):
            if time.time() - place.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(place)


class PartWriter:
    """Writes the states of some texts in any order; the part can be read after `close`.

    Args:
        folder: Directory of the group.
        number: Number of the part.
        lengths: Number of pieces of each text, by its key.
        width: D.

    Raises:
        StorageError: The disk has too little space, or cannot be written.
    """

    def __init__(self, folder: str, number: int, lengths: Mapping[Key, int], width: int) -> None:
        place = _part(folder, number)
        keys = sorted(lengths)
        ends = np.cumsum([0, *(lengths[key] for key in keys)])
        self._starts = dict(zip(keys, ends[:-1].tolist(), strict=True))
        self._folder = folder
        with _explained(folder):
            place.mkdir(parents=True)
            needed, free = int(ends[-1]) * width * 4, shutil.disk_usage(place).free
            if needed > free:
                raise OSError(errno.ENOSPC, f"{format_bytes(needed)} are needed, {format_bytes(free)} are free")
            np.save(place / "keys.npy", np.array(keys, np.uint64).reshape(-1, 2).T)
            np.save(place / "ends.npy", ends)
            # An empty file cannot be mapped.
            shape = (int(ends[-1]), width)
            self._states = np.lib.format.open_memmap(place / "states.npy", "w+", np.dtype("<f4"), shape)

    def put(self, key: Key, states: Float32Array) -> None:
        """Write the states [pieces, D] of one text."""
        first = self._starts[key]
        self._states[first : first + len(states)] = states

    def close(self) -> None:
        """Write what is still in memory.

        Raises:
            StorageError: It cannot be written.
        """
        with _explained(self._folder):
            self._states.flush()


def complete(written: str, *, parts: int, width: int, covers: str) -> None:
    """Record that all parts of a group are written, and give it its final name.

    Raises:
        StorageError: It cannot be renamed.
    """
    storage.write_json(storage.join(written, RECORD), {"parts": parts, "width": width, "covers": covers})
    with _explained(written):
        path = Path(storage.local_path(written))
        path.rename(path.with_name(path.name.removesuffix(UNFINISHED)))


@contextmanager
def _explained(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cached states of texts cannot be written: {error.strerror or error}",
            where=folder,
            remedy="set model.text.states_dir to a directory with more space that all workers share",
        ) from error


def _part(folder: str, number: int) -> Path:
    return Path(storage.local_path(folder)) / f"part-{number:05d}"
