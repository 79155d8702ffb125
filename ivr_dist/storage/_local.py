"""Local storage by system calls, for what fsspec's local file system lacks: fsync and hard links."""

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
    """The backend of local files."""

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
            stat = os.stat(path)
        except NotADirectoryError as error:
            # Nothing exists below a file, as on an object store.
            raise FileNotFoundError(path) from error
        return None if os.path.isdir(path) else stat.st_size

    def stamp(self, url: str) -> str:
        stat = os.stat(local_path(url))
        # With the ctime, which cannot be set back as the mtime can.
        return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"

    def delete_staged(self, url: str) -> None:
        with suppress(FileNotFoundError), os.scandir(local_path(url)) as listing:
            for path in [entry.path for entry in listing if entry.name.endswith(_STAGED_SUFFIX)]:
                os.unlink(path)

    def entries(self, url: str) -> dict[str, int | None]:
        sizes: dict[str, int | None] = {}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(local_path(url)) as listing:
            for entry in listing:
                # A file that is deleted after it was listed is absent.
                try:
                    if not entry.name.endswith(_STAGED_SUFFIX):
                        sizes[entry.name] = None if entry.is_dir() else entry.stat().st_size
                except OSError as error:
                    # So is a dangling link, or a cycle of links.
                    if error.errno not in (errno.ENOENT, errno.ELOOP):
                        raise
        return sizes

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
    """Provide a temporary name beside `path`, in the same file system, for a rename; delete it afterwards."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{uuid.uuid4().hex}{_STAGED_SUFFIX}")
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _resolved(path: str) -> str:
    """Resolve the links of `path` except for the last part: if that is a link, the link itself is deleted.

    A path that ends in nothing, `.` or `..` names no entry of a directory; its result is not deletable.
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
    # Otherwise a power failure can undo the rename although the file's own bytes are safe.
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def pread(descriptor: int, start: int, end: int) -> bytes:
    """Read the bytes [start, end) of an open file, fewer at its end."""
    # A damaged index must not cause a huge allocation.
    end = min(end, os.fstat(descriptor).st_size)
    parts = []
    while start < end and (part := os.pread(descriptor, end - start, start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
