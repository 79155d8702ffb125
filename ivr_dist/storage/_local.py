"""Local files, by system calls: fsspec's local file system has neither fsync nor hard links."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

from ivr_dist.storage._errors import refuse_root
from ivr_dist.storage._paths import is_deletable, local_path

Buffer = bytes | memoryview

_STAGED_SUFFIX = ".ivr-staged"


class Disk:
    """Local files, by system calls: fsspec's local file system has neither fsync nor hard links."""

    def read(self, url: str) -> bytes:
        with open(local_path(url), "rb") as file:
            return file.read()

    def read_range(self, url: str, start: int, end: int) -> bytes:
        with open(local_path(url), "rb", buffering=0) as file:
            return pread(file.fileno(), start, end)

    def open(self, url: str) -> BinaryIO:
        return open(local_path(url), "rb")

    def write(self, url: str, data: bytes) -> None:
        with staged(local_path(url)) as temporary:
            _write_through(temporary, [data])
            publish(temporary, local_path(url))

    def write_all(self, url: str, buffers: Sequence[Buffer]) -> None:
        with staged(local_path(url)) as temporary:
            _write_through(temporary, buffers)
            publish(temporary, local_path(url))

    def create(self, url: str, data: bytes) -> bool:
        path = local_path(url)
        with staged(path) as temporary:
            _write_through(temporary, [data])
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            _sync_folder(path)
        return True

    def put(self, local_file: str, url: str) -> None:
        with staged(local_path(url)) as temporary:
            with open(local_file, "rb") as source, open(temporary, "xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            publish(temporary, local_path(url))

    def get(self, url: str, local_file: str) -> None:
        self.put(local_path(url), local_file)

    def make_dirs(self, url: str) -> None:
        os.makedirs(local_path(url), exist_ok=True)

    def delete(self, url: str) -> None:
        path = _resolved(local_path(url))
        if not is_deletable(path, os.path.ismount(path), os.path.realpath(os.path.expanduser("~"))):
            raise refuse_root(url)
        with suppress(FileNotFoundError):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)

    def info(self, url: str) -> int | None:
        path = local_path(url)
        try:
            found = os.stat(path)
        except NotADirectoryError as error:
            # There is nothing below a file, as on an object store.
            raise FileNotFoundError(path) from error
        return None if os.path.isdir(path) else found.st_size

    def stamp(self, url: str) -> str:
        found = os.stat(local_path(url))
        # The time of the last change of any kind cannot be set back, as that of the content can.
        return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"

    def delete_staged(self, url: str) -> None:
        with suppress(FileNotFoundError), os.scandir(local_path(url)) as listing:
            for path in [entry.path for entry in listing if entry.name.endswith(_STAGED_SUFFIX)]:
                os.unlink(path)

    def entries(self, url: str) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(local_path(url)) as listing:
            for entry in listing:
                # A file may go between the listing and the look: then it is absent.
                try:
                    if not entry.name.endswith(_STAGED_SUFFIX):
                        found[entry.name] = None if entry.is_dir() else entry.stat().st_size
                except OSError as error:
                    # So is a link that leads nowhere, or around in a circle.
                    if error.errno not in (errno.ENOENT, errno.ELOOP):
                        raise
        return found

    def walk(self, url: str) -> list[str]:
        top = local_path(url)
        names = (
            os.path.relpath(os.path.join(folder, file), top)
            for folder, _, files in os.walk(top, onerror=_raise_unless_absent)
            for file in files
        )
        return [name for name in names if not name.endswith(_STAGED_SUFFIX)]


@contextmanager
def staged(path: str) -> Iterator[str]:
    """A name beside `path` to write to, in the same file system so that it can be renamed; removed afterwards."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{uuid.uuid4().hex}{_STAGED_SUFFIX}")
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _resolved(path: str) -> str:
    """The place that `path` names, with links followed except where it ends in one: that link is what is deleted.

    A path that ends in nothing, `.` or `..` names no entry of a directory; what comes back is not deletable.
    """
    folder, name = os.path.split(path.rstrip("/"))
    return os.path.join(os.path.realpath(folder), name) if name else "/"


def _write_through(path: str, buffers: Sequence[Buffer]) -> None:
    with open(path, "xb") as file:
        for buffer in buffers:
            file.write(buffer)
        file.flush()
        os.fsync(file.fileno())


def publish(temporary: str, path: str) -> None:
    os.replace(temporary, path)
    _sync_folder(path)


def _sync_folder(path: str) -> None:
    # Without it a power cut can undo the rename although the file's own bytes are safe.
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def pread(descriptor: int, start: int, end: int) -> bytes:
    """The bytes [start, end) of an open file, fewer where it ends."""
    # An index that lies about sizes must not make us allocate what it says.
    end = min(end, os.fstat(descriptor).st_size)
    parts = []
    while start < end and (part := os.pread(descriptor, end - start, start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
