"""WebDataset tar files: written as plain USTAR, read from any writer, without trusting any header.

A sample is a run of adjacent members whose names share a key: the name up to the first dot after the last slash.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Protocol

from ivr_dist.common.file_signatures import other_kind
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.sanitize import shorten

BLOCK = 512
_ZEROS = b"\0" * BLOCK
_CHUNK = 8 << 20
_MAX_BUFFERED = 1 << 30
_MAX_MEMBERS = 1000
_MAX_META = 1024 * 1024
_MAX_NAME = 1024
_GNU_LONG_NAME, _GNU_LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_META = (_GNU_LONG_NAME, _GNU_LONG_LINK, _PAX, _PAX_GLOBAL)
_FILES = (b"0", b"\0", b"7")
_DIRECTORY = b"5"
_TEMPLATE = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
"""A member's header without a name, of size 0."""
_TEMPLATE_SUM = sum(_TEMPLATE) - sum(_TEMPLATE[124:135]) - sum(_TEMPLATE[148:156]) + 8 * ord(" ")
"""Checksum of all but name and size; the checksum's own field counts as blanks."""


class TarWriter:
    """Writes members without owner, time or other traces of the machine, so equal members result in equal bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def add(self, name: str, *content: bytes | memoryview) -> None:
        """Append one member, whose content may come in parts.

        Raises:
            DataError: The name does not fit USTAR.
        """
        size = sum(map(len, content))
        self._file.writelines((_written_header(name, size), *content, _ZEROS[: padded(size) - size]))

    def close(self) -> None:
        """Write the end mark; the file object stays open."""
        self._file.write(2 * _ZEROS)


class Readable(Protocol):
    """The bytes of a tar, read from front to back."""

    size: int

    def take(self, start: int, end: int) -> memoryview:
        """Return the bytes [start, end), none of which has been released."""

    def release(self, before: int) -> None:
        """Release all bytes before an offset."""


class InMemory:
    """A tar in memory."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._view = memoryview(data)
        self.size = len(self._view)

    def take(self, start: int, end: int) -> memoryview:
        """See `Readable`."""
        return self._view[start:end]

    def release(self, before: int) -> None:
        """Do nothing."""


class Stream:
    """A tar that is read once, a chunk at a time; released bytes do not stay in memory.

    Args:
        read: Reads the bytes [start, end) of the file.
        size: Bytes of the file.
        where: Its name, for errors.
        chunk: Minimum number of bytes of a read.
        most: Maximum number of bytes in memory.
    """

    def __init__(
        self, read: Callable[[int, int], bytes], size: int, where: str, chunk: int = _CHUNK, most: int = _MAX_BUFFERED
    ) -> None:
        self.size = size
        self._chunk = chunk
        self._most = most
        self._read = read
        self._where = where
        self._sha256 = hashlib.sha256()
        self._data = b""
        self._end = 0
        self._needed = 0

    def take(self, start: int, end: int) -> memoryview:
        """See `Readable`.

        Raises:
            CorruptDataError: More than the maximum would have to be in memory.
        """
        if end - self._needed > self._most:
            what = f"a sample, or the gap between two, takes more than {self._most} bytes from byte {self._needed} on"
            raise _refused(what, self._where)
        while self._end < end:
            # Released bytes are skipped in chunks, the rest is read in one piece.
            stop = self._end + self._chunk
            self._advance(stop if self._end < self._needed else max(stop, end))
        first = self._end - len(self._data)
        return memoryview(self._data)[start - first : end - first]

    def release(self, before: int) -> None:
        """See `Readable`."""
        self._needed = before

    def sha256(self) -> str:
        """Compute the checksum of the whole file, the rest of which is read for it."""
        self._needed = self.size
        while self._end < self.size:
            self._advance(self._end + self._chunk)
        return self._sha256.hexdigest()

    def _advance(self, stop: int) -> None:
        stop = min(stop, self.size)
        fresh = self._read(self._end, stop)
        self._sha256.update(fresh)
        unreleased = max(self._end - self._needed, 0)
        self._data = self._data[len(self._data) - unreleased :] + fresh
        self._end = stop


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    name: str
    start: int
    """Offset of its headers from the start of the buffer."""
    payload: int
    """Offset of its content."""
    size: int
    """Bytes of content."""

    @property
    def end(self) -> int:
        """Offset of the next member's headers."""
        return self.payload + padded(self.size)

    @property
    def key(self) -> str:
        """Key of the sample it belongs to."""
        folder, slash, base = self.name.rpartition("/")
        return folder + slash + base.partition(".")[0]

    @property
    def suffix(self) -> str:
        """Rest of the name after the key, in lower case, such as `json` and `audio.npy`."""
        return self.name.rpartition("/")[2].partition(".")[2].lower()


def members(data: bytes | memoryview | Readable, where: str, whole: bool = False) -> Iterator[Member]:
    """Iterate over the files in a tar, or in any run of whole members of one.

    Directories are skipped. Reads USTAR, GNU long names and PAX headers.

    Args:
        data: The bytes.
        where: Name of the shard, for errors.
        whole: Whether it is a whole tar, which has an end mark; without one it was cut off between two members.

    Raises:
        CorruptDataError: The tar is damaged, truncated, or holds links, devices, or paths that lead out of it.
    """
    content = readable(data)
    position = start = 0
    extension = _ExtensionHeaders()
    while position + BLOCK <= content.size:
        block = bytes(content.take(position, position + BLOCK))
        if block == _ZEROS:
            break
        header = _header(block, position, where)
        meta = header.type in _META
        size = header.size if meta or extension.size is None else extension.size
        if header.type == _DIRECTORY:
            size = 0  # a directory has no content, even if its header states a size
        payload = position + BLOCK
        end = payload + padded(size)
        if end > content.size:
            raise _refused(f"the tar is cut off: a member at byte {position} has {size} bytes", where)
        if meta:
            extension.read(header.type, content, payload, size, where)
            position = end
            continue
        name = extension.name or header.name
        if header.type in _FILES:
            yield Member(_safe(name, where), start, payload, size)
        elif header.type != _DIRECTORY:
            raise _refused(f"{shorten(name, _MAX_NAME)!r} is not a plain file (tar type {header.type!r})", where)
        position = start = end
        extension = _ExtensionHeaders()
    if position != start:
        raise _refused(f"the tar is cut off after the long header at byte {start}", where)
    _check_end(content, position, where, whole)


def readable(data: bytes | memoryview | Readable) -> Readable:
    """Wrap bytes in memory as a `Readable`."""
    return InMemory(data) if isinstance(data, bytes | memoryview) else data


def _check_end(content: Readable, position: int, where: str, whole: bool) -> None:
    if content.size < BLOCK and (whole or content.size):
        # Less than one header: a pointer file of Git LFS, an error page of a server, or nothing.
        raise _no_tar(bytes(content.take(0, content.size)), 0, where, f"the tar is cut off at byte {content.size}")
    for start in range(position, content.size, _CHUNK):
        if bytes(content.take(start, min(start + _CHUNK, content.size))).strip(b"\0"):
            raise _refused(f"the tar is cut off, or continues after its end mark, at byte {position}", where)
    if whole and position + BLOCK > content.size:
        raise _refused("the tar has no end mark: it was cut off, or its writer was not closed", where)


def samples(data: bytes | memoryview | Readable, where: str, whole: bool = False) -> Iterator[list[Member]]:
    """Group members into samples.

    As in WebDataset, members belong to no sample if they have no suffix, are hidden, or are named `__...__`.

    Raises:
        CorruptDataError: As for `members`, or a sample has more than 1000 members.
    """
    group: list[Member] = []
    for member in members(data, where, whole):
        stem = member.name.rpartition("/")[2].partition(".")[0]
        if not stem or not member.suffix or (stem.startswith("__") and stem.endswith("__")):
            continue
        if group and group[0].key != member.key:
            yield group
            group = []
        if len(group) == _MAX_MEMBERS:
            raise _refused(f"sample {member.key} has more than {_MAX_MEMBERS} members", where)
        group.append(member)
    if group:
        yield group


@dataclass
class _ExtensionHeaders:
    """Name and size of a member from the extension headers before its own header."""

    name: str | None = None
    size: int | None = None

    def read(self, kind: bytes, tar: Readable, start: int, size: int, where: str) -> None:
        """Read a GNU or PAX header."""
        if size > _MAX_META:
            raise _refused(f"a tar header of {size} bytes", where)
        content = tar.take(start, start + size)
        if kind == _GNU_LONG_NAME:
            self.name = _decoded(bytes(content).rstrip(b"\0"))
        elif kind == _PAX:
            records = _pax(bytes(content), where)
            if any(key.startswith("GNU.sparse") for key in records):
                raise _refused("a sparse file, whose content is not stored literally in the tar", where)
            self.name = records.get("path", self.name)
            self.size = _number(records["size"], where) if "size" in records else self.size


@dataclass(frozen=True)
class _Header:
    name: str
    size: int
    type: bytes


def _header(block: bytes, position: int, where: str) -> _Header:
    # The checksum is over the header with its own field as blanks.
    expected = sum(block) - sum(block[148:156]) + 8 * 32
    stored = block[148:156].split(b"\0", 1)[0].strip()
    if not stored or stored.strip(b"01234567") or int(stored, 8) != expected:
        raise _no_tar(block, position, where, f"no tar header at byte {position}")
    name = _text(block[:100])
    if block[257:262] == b"ustar" and block[262:263] != b" " and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    return _Header(name, _size(block[124:136], where), block[156:157])


def _written_header(name: str, size: int) -> bytes:
    """Write the same header as tarfile, ten times as fast for plain names and sizes."""
    try:
        stem = name.encode("ascii")
        if len(stem) > 100 or size >= 8**11:
            info = tarfile.TarInfo(name)
            info.size = size
            return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except (ValueError, UnicodeError) as error:
        raise DataError(f"a tar member cannot be named {name!r}", remedy="use shorter, plain ids") from error
    digits = b"%011o" % size
    head = stem.ljust(100, b"\0") + _TEMPLATE[100:124] + digits + _TEMPLATE[135:148]
    checksum = b"%06o\0 " % (sum(stem) + sum(digits) + _TEMPLATE_SUM)
    return head + checksum + _TEMPLATE[156:]


def padded(size: int) -> int:
    """Round a size up to whole blocks of a tar."""
    return -(-size // BLOCK) * BLOCK


def _size(text: bytes, where: str) -> int:
    if text[0] & 0x80:  # GNU's base-256 for sizes over 8 GiB
        return int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
    return _octal(text, where)


def _octal(text: bytes, where: str) -> int:
    digits = text.split(b"\0", 1)[0].strip()
    if digits.strip(b"01234567"):
        raise _refused(f"{digits!r} is not a number of a tar header", where)
    return int(digits, 8) if digits else 0


def _pax(content: bytes, where: str) -> dict[str, str]:
    """Parse records `LENGTH KEY=VALUE` and a line feed, where LENGTH counts the whole record."""
    records = {}
    start = 0
    while start < len(content) and content[start]:
        space = content.find(b" ", start, start + 20)
        end = start + _number(content[start : max(space, start)].decode("ascii", "replace"), where)
        if end <= space + 1 or end > len(content) or content[end - 1 : end] != b"\n":
            raise _refused("a PAX header cannot be read", where)
        key, _, value = content[space + 1 : end - 1].partition(b"=")
        records[_decoded(key)] = _decoded(value)
        start = end
    return records


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise _refused(f"{shorten(text, 20)!r} is not a number of a tar header", where)
    return int(text)


def _text(field: bytes) -> str:
    return _decoded(field.split(b"\0", 1)[0])


def _decoded(name: bytes) -> str:
    """Decode a name; bytes that are not UTF-8 are escaped like in tarfile, so that different names stay different."""
    return name.decode("utf-8", "surrogateescape")


def encoded(name: str) -> bytes:
    """Encode a name that was read from a tar."""
    return name.encode("utf-8", "surrogateescape")


def _safe(name: str, where: str) -> str:
    clean = name.removeprefix("./")
    if len(encoded(clean)) > _MAX_NAME:
        raise _refused(f"a member's name is longer than {_MAX_NAME} bytes", where)
    if not clean or clean.startswith("/") or ".." in clean.split("/") or "\0" in clean:
        raise _refused(f"a member named {name!r} leads out of the tar", where)
    return clean


def _no_tar(block: bytes, position: int, where: str, else_: str) -> CorruptDataError:
    """Make the error for a block that is not a header; at the start of a file it names the actual file type."""
    other = other_kind(block, "a tar", "a tar") if position == 0 else None
    if other is None:
        return _refused(else_, where)
    return CorruptDataError(other[0], where=where, remedy=other[1])


def _refused(what: str, where: str) -> CorruptDataError:
    return CorruptDataError(what, where=where, remedy="copy the shard again from where it was packed, or pack it again")
