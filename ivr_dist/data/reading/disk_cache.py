"""Ranges of remote files kept on local disk, by all processes of a machine together.

A file for each range, named after its checksum and size, so that whoever reads it can tell that it is whole: nothing
has to be flushed, and what a crash leaves behind is read as absent. Files appear by a rename. Those that were used
longest ago go first; one process at a time clears up, under a lock of the kernel's, which a killed one cannot keep.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ivr_dist.common.library_errors import describe
from ivr_dist.errors import StorageError

_LOCK_NAME = "lock"
_PART_PREFIX = "part-"
_PART_AGE_S = 3600.0
"""After which an unfinished file must be that of a process that was killed."""
_REST_S = 60.0
"""After a failure."""
_PASSING = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE))
"""What no run ends at, for it may pass."""
_KEPT_SHARE = 0.9
"""Of the limit, after clearing up: so that it is not done for every file."""
_CHECKS = 16
"""Times a process looks at the directory while it writes as many bytes as the limit."""


class DiskCache:
    """Ranges on local disk; safe to use from several threads and processes.

    Args:
        directory: Made if it is not there. Only what this class has put there is ever deleted.
        limit: Bytes to keep to; passed by at most an eighth for each process, between two looks.
        note: Told once when nothing can be kept for now.

    Raises:
        StorageError: The directory cannot be written to, and will not be.
    """

    def __init__(self, directory: str, limit: int, note: Callable[[str], None] | None = None) -> None:
        self.directory = Path(directory)
        self.limit = limit
        self._note = note
        self._unchecked = limit
        self._usable_from = 0.0
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory):
                pass
        except OSError as error:
            if error.errno in _PASSING:
                self._rest(error)
                return
            raise StorageError(
                f"cannot keep files: {error.strerror}",
                where=directory,
                remedy="set data.disk_cache to a directory of the local disk that you may write to",
            ) from error

    def get(self, name: str) -> bytes | None:
        """What was put there under this name, which may be damaged; None if nothing is there."""
        place = self._place(name)
        try:
            data = place.read_bytes()
            os.utime(place)
        except OSError:
            return None
        return data

    def put(self, name: str, data: bytes) -> None:
        """Keep a range; a disk that is full or fails is as good as none, until it is well again."""
        if len(data) > self.limit or time.monotonic() < self._usable_from:
            return
        try:
            self._write(self._place(name), data)
        except OSError as error:
            self._rest(error)
            return
        # Without a lock, which a forked child would find held: a count that threads spoil only moves the next look.
        self._unchecked += len(data)
        if self._unchecked * _CHECKS >= self.limit:
            self._unchecked = 0
            self._clear_up()

    def _rest(self, error: OSError) -> None:
        """Leave the disk alone for a while: a read is no place to wait for a failing one."""
        self._usable_from = time.monotonic() + _REST_S
        if self._note is not None:
            self._note(f"data.disk_cache keeps nothing for now: {describe(error)}")
            self._note = None

    def _place(self, name: str) -> Path:
        return self.directory / name[:2] / name

    def _write(self, place: Path, data: bytes) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=_PART_PREFIX, dir=place.parent)
        try:
            with open(handle, "wb") as file:
                file.write(data)
            os.replace(part, place)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise

    def _clear_up(self) -> None:
        """Delete what was used longest ago, until the rest is within the limit."""
        with suppress(OSError), open(self.directory / _LOCK_NAME, "ab") as lock:
            # Whoever holds it is doing the same work.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = sorted(self._files())
            total = sum(size for _, size, _ in found)
            if total <= self.limit:
                return
            for _, size, path in found:
                if total <= _KEPT_SHARE * self.limit:
                    break
                with suppress(FileNotFoundError):
                    os.unlink(path)
                total -= size

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Time of last use, size and path of what is kept; what killed processes left is deleted."""
        for folder in os.scandir(self.directory):
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            for file in os.scandir(folder.path):
                with suppress(FileNotFoundError):
                    found = file.stat(follow_symlinks=False)
                    if not file.name.startswith(_PART_PREFIX):
                        yield found.st_mtime, found.st_size, file.path
                    elif found.st_mtime < time.time() - _PART_AGE_S:
                        os.unlink(file.path)
