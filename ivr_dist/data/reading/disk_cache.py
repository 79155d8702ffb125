"""On-disk LRU cache of ranges of remote files, shared by all processes of a machine.

* Each range is a file named after its checksum and size, so a reader can verify it. Nothing has to be flushed: after
  a crash, a damaged file is a cache miss.
* Files appear by an atomic rename.
* The least recently used files are evicted first, by one process at a time, under a kernel lock (`flock`), which ends
  with a killed process.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ivr_dist.common.library_errors import describe
from ivr_dist.errors import StorageError

logger = logging.getLogger(__name__)

_LOCK_NAME = "lock"
_PART_PREFIX = "part-"
_PART_AGE_S = 3600.0
"""Age at which an unfinished file is regarded as left by a killed process."""
_PAUSE_S = 60.0
"""Seconds for which the cache is not written to after a failure."""
_TRANSIENT = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE))
"""Errors that do not end a run, because they may pass."""
_EVICT_TO = 0.9
"""Share of the limit that remains after an eviction, so that not every new file causes one."""
_CHECKS = 16
"""Number of scans of the directory by a process while it writes as many bytes as the limit."""


class DiskCache:
    """Ranges on local disk; safe to use from several threads and processes.

    Args:
        directory: Created if it does not exist. Only files that this class has written are ever deleted.
        limit: Target size in bytes; exceeded by at most an eighth for each process, between two scans, and by what
            other processes write during one.
        note: Called once when the cache cannot be written to for now.

    Raises:
        StorageError: The directory cannot be written to, and the cause will not pass.
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
            if error.errno in _TRANSIENT:
                self._pause(error)
                return
            raise StorageError(
                f"the disk cache cannot be written: {error.strerror}",
                where=directory,
                remedy="set data.disk_cache to a directory of the local disk that you may write to",
            ) from error

    def get(self, name: str) -> bytes | None:
        """Return the cached bytes of this name, which may be damaged; None on a cache miss."""
        path = self._path(name)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def put(self, name: str, data: bytes) -> None:
        """Cache a range; does nothing for a while after the disk was full or failed."""
        if len(data) > self.limit or time.monotonic() < self._usable_from:
            return
        try:
            self._write(self._path(name), data)
        except OSError as error:
            self._pause(error)
            return
        # Without a lock, which might be held in a forked child: a lost update only moves the next scan.
        self._unchecked += len(data)
        while self._unchecked * _CHECKS >= self.limit:
            written, self._unchecked = self._unchecked, 0
            if not self._evict():
                # The other scan may be past this file. A thread of this process that scans looks again afterwards.
                self._unchecked += written
                break

    def _pause(self, error: OSError) -> None:
        """Stop writing to the disk for a while."""
        self._usable_from = time.monotonic() + _PAUSE_S
        logger.warning("%s is not used for %.0f s: %s", self.directory, _PAUSE_S, describe(error))
        if self._note is not None:
            self._note(f"data.disk_cache cannot be written to for now: {describe(error)}")
            self._note = None

    def _path(self, name: str) -> Path:
        return self.directory / name[:2] / name

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=_PART_PREFIX, dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(data)
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise

    def _evict(self) -> bool:
        """Delete the least recently used files until the rest is within the limit; False if another scan is running."""
        with suppress(OSError), open(self.directory / _LOCK_NAME, "ab") as lock:
            # If it is held, another process is evicting files.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            files = sorted(self._files())
            total = sum(size for _, size, _ in files)
            if total <= self.limit:
                return True
            for _, size, path in files:
                if total <= _EVICT_TO * self.limit:
                    break
                with suppress(FileNotFoundError):
                    os.unlink(path)
                total -= size
            return True
        return False

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Iterate over time of last use, size and path of cached files; delete what killed processes left."""
        for folder in os.scandir(self.directory):
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            for file in os.scandir(folder.path):
                with suppress(FileNotFoundError):
                    stat = file.stat(follow_symlinks=False)
                    if not file.name.startswith(_PART_PREFIX):
                        yield stat.st_mtime, stat.st_size, file.path
                    elif stat.st_mtime < time.time() - _PART_AGE_S:
                        os.unlink(file.path)
