"""Source files of a corpus, read and verified against the card."""

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

_CHUNK = 8 << 20
_BUFFER = 1 << 20


def read_source_file(root: str, file: SourceFile) -> bytes:
    """Read a file of the corpus.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: Its entry in the card.

    Raises:
        DataError: It is missing, or has another checksum.
    """
    url = storage.join(root, file.path)
    try:
        data = storage.read_bytes(url)
    except storage.NotFoundError:
        raise _missing(url, file) from None
    if file.sha256 is not None and hashlib.sha256(data).hexdigest() != file.sha256:
        raise _other_file(url)
    return data


def read_source_text(root: str, file: SourceFile, kind: str) -> str:
    """Read a text file of the corpus: UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: Its entry in the card.
        kind: Expected kind of file with its article, for errors.

    Raises:
        DataError: It is missing, has another checksum, or another encoding.
    """
    data = read_source_file(root, file)
    where = storage.display(storage.join(root, file.path))
    refuse_other(data, kind, where)
    try:
        return decode_text(data)
    except ValueError as error:
        raise DataError(str(error), where=where, remedy="save it as UTF-8") from None


def refuse_other(data: bytes, kind: str, where: str, *accepted: str) -> None:
    """Refuse a file whose signature is that of another kind.

    Args:
        data: The file, or its first bytes.
        kind: Expected kind of file with its article, for errors.
        where: Name of the file, for errors.
        accepted: Prefixes of the names of kinds that are accepted; see `common.file_signatures`.

    Raises:
        DataError: It is of another kind, which the error names.
    """
    if (other := other_kind(data[:HEAD], kind, *accepted)) is not None:
        raise DataError(other[0], where=where, remedy=other[1])


def open_source_file(root: str, file: SourceFile) -> BinaryIO:
    """Open a file of the corpus to read it in parts; if the card has a checksum, the whole file is verified first.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: Its entry in the card.

    Raises:
        DataError: It is missing, or has another checksum.
    """
    url = storage.join(root, file.path)
    try:
        size = storage.size(url)
    except storage.NotFoundError:
        raise _missing(url, file) from None
    if file.sha256 is not None:
        digest = hashlib.sha256()
        for start in range(0, size, _CHUNK):
            digest.update(storage.read_range(url, start, min(start + _CHUNK, size)))
        if digest.hexdigest() != file.sha256:
            raise _other_file(url)
    return io.BufferedReader(_RangeFile(url, size), _BUFFER)


def split_of_group(root: str, card: Card) -> Mapping[str, str] | None:
    """Map groups to splits, as listed in the card or in the files it names; None if the card lists none.

    Raises:
        DataError: A file is missing, or has another checksum.
        ConfigError: A group is in two splits.
    """
    if not card.splits_by_group():
        return None
    split_by_group: dict[str, str] = {}
    for name, split in card.splits.items():
        groups = list(split.groups or ())
        if split.groups_file is not None:
            text = read_source_text(root, card.files[split.groups_file], "a list of groups")
            groups += [line.strip() for line in text.splitlines() if line.strip()]
        for group in groups:
            if split_by_group.setdefault(group, name) != name:
                raise ConfigError(
                    f"group {group} is in the splits {split_by_group[group]} and {name}", where=f"card {card.name}"
                )
    return split_by_group


class _RangeFile(io.RawIOBase):
    """A file in any storage as a Python file object, which reads ranges."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._position + len(buffer), self._size)
        data = storage.read_range(self._url, self._position, end) if self._position < end else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _missing(url: str, file: SourceFile) -> DataError:
    remedy = f"get it from: {file.origin}" if file.origin else "check the folder that is packed"
    return DataError("a file of the corpus is missing", where=storage.display(url), remedy=remedy)


def _other_file(url: str) -> DataError:
    return DataError(
        "the file differs from the one that the card describes (sha256)",
        where=storage.display(url),
        remedy="get that file, or pack with your own copy of the card without its sha256",
    )
