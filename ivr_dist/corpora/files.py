"""The files of a corpus, checked against its card."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from typing import BinaryIO

from ivr_dist import storage
from ivr_dist.common.file_signatures import HEAD, decode_text, other_kind
from ivr_dist.corpora.card import Card, SourceFile
from ivr_dist.errors import ConfigError, DataError

_PIECE = 8 << 20
_READ_AHEAD = 1 << 20


def read_source_file(root: str, file: SourceFile) -> bytes:
    """Read a file of the corpus.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: What the card says about it.

    Raises:
        DataError: It is absent, or not the file that the card describes.
    """
    place = storage.join(root, file.path)
    try:
        data = storage.read_bytes(place)
    except storage.NotFoundError:
        raise _absent(place, file) from None
    if file.sha256 is not None and hashlib.sha256(data).hexdigest() != file.sha256:
        raise _other_file(place)
    return data


def read_source_text(root: str, file: SourceFile, wanted: str) -> str:
    """Read a text file of the corpus: UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: What the card says about it.
        wanted: What it should be, with its article.

    Raises:
        DataError: It is absent, not the file that the card describes, or of another encoding.
    """
    data = read_source_file(root, file)
    where = storage.display(storage.join(root, file.path))
    refuse_other(data, wanted, where)
    try:
        return decode_text(data)
    except ValueError as error:
        raise DataError(str(error), where=where, remedy="save it as UTF-8") from None


def refuse_other(data: bytes, wanted: str, where: str, *but: str) -> None:
    """Refuse what is plainly another kind of file than `wanted`.

    Args:
        data: The file, or its first bytes.
        wanted: What it should be, with its article.
        where: What errors call it.
        but: Beginnings of names of kinds that are right; see `file_kinds`.

    Raises:
        DataError: Says what it is.
    """
    if (found := other_kind(data[:HEAD], wanted, *but)) is not None:
        raise DataError(found[0], where=where, remedy=found[1])


def open_source_file(root: str, file: SourceFile) -> BinaryIO:
    """Open a file of the corpus to read it in parts; where the card has a checksum, all of it is read once to compare.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: What the card says about it.

    Raises:
        DataError: It is absent, or not the file that the card describes.
    """
    place = storage.join(root, file.path)
    try:
        size = storage.size(place)
    except storage.NotFoundError:
        raise _absent(place, file) from None
    if file.sha256 is not None:
        digest = hashlib.sha256()
        for start in range(0, size, _PIECE):
            digest.update(storage.read_range(place, start, min(start + _PIECE, size)))
        if digest.hexdigest() != file.sha256:
            raise _other_file(place)
    return io.BufferedReader(_Ranges(place, size), _READ_AHEAD)


def split_of_group(root: str, card: Card) -> Mapping[str, str] | None:
    """The split of each group, where the card lists them or names a file of theirs for each split, else None.

    Raises:
        DataError: A file is absent or not the one the card describes.
        ConfigError: A group is in two splits.
    """
    if not card.splits_by_group():
        return None
    found: dict[str, str] = {}
    for name, split in card.splits.items():
        groups = list(split.groups or ())
        if split.groups_file is not None:
            text = read_source_text(root, card.files[split.groups_file], "a list of groups")
            groups += [line.strip() for line in text.splitlines() if line.strip()]
        for group in groups:
            if found.setdefault(group, name) != name:
                raise ConfigError(
                    f"group {group} is in the splits {found[group]} and {name}", where=f"card {card.name}"
                )
    return found


class _Ranges(io.RawIOBase):
    """A file anywhere as Python's own kind of file, read by ranges."""

    def __init__(self, place: str, size: int) -> None:
        self._place = place
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._at + len(buffer), self._size)
        data = storage.read_range(self._place, self._at, end) if self._at < end else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _absent(place: str, file: SourceFile) -> DataError:
    remedy = f"get it from: {file.origin}" if file.origin else "check the folder that is packed"
    return DataError("a file of the corpus is missing", where=storage.display(place), remedy=remedy)


def _other_file(place: str) -> DataError:
    return DataError(
        "the file is not the one that the card describes (sha256 differs)",
        where=storage.display(place),
        remedy="get that file, or pack with your own copy of the card without its sha256",
    )
