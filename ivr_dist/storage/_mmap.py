"""Memory-mapped local files: ranges as views of the page cache, without a copy."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from contextlib import suppress

import numpy as np

from ivr_dist.storage._errors import explain
from ivr_dist.storage._local import pread
from ivr_dist.storage._paths import local_path

_MADV_POPULATE_READ = 22
"""Since Linux 5.14; Python has no name for it."""

# ctypes releases the interpreter lock during a call.
_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


# decision 019
class MappedFile:
    """A local file whose ranges are views of the page cache; safe to use from several threads.

    The file must not change: the process is killed by SIGBUS if the file is truncated while a view of it is used.

    Args:
        url: The file.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._map: mmap.mmap | None = None
        self._address = 0

    def will_need(self, start: int, end: int) -> None:
        """Prefetch the bytes [start, end) in the background; errors are raised by `view`."""
        with suppress(OSError):
            os.posix_fadvise(self._opened(), start, end - start, os.POSIX_FADV_WILLNEED)

    def view(self, start: int, end: int) -> memoryview:
        """Return the bytes [start, end), fewer at the end of the file; waits until they are read from disk."""
        try:
            descriptor = self._opened()
            end = min(end, os.fstat(descriptor).st_size)
            if end <= start:
                return memoryview(b"")
            return self._mapped(start, end) or memoryview(pread(descriptor, start, end))
        except OSError as error:
            raise explain("read", self._url, error, 1) from error

    def _opened(self) -> int:
        with self._lock:
            return self._open() if self._descriptor is None else self._descriptor

    def _open(self) -> int:
        self._descriptor = os.open(local_path(self._url), os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        # Some file systems do not support mmap, and an empty file cannot be mapped.
        with suppress(OSError, ValueError):
            mapped = mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ)
            self._address = np.frombuffer(mapped, np.uint8).ctypes.data
            self._map = mapped
        return self._descriptor

    def _mapped(self, start: int, end: int) -> memoryview | None:
        """Return a view of the map, if the system can load all of its pages."""
        if self._map is None or end > len(self._map):
            return None
        first = start - start % mmap.PAGESIZE
        # A page that cannot be read is an error here, instead of a SIGBUS later. Not by `mmap.madvise`, which holds the
        # interpreter lock while it waits for the disk.
        if _libc.madvise(self._address + first, end - first, _MADV_POPULATE_READ):
            return None
        return memoryview(self._map)[start:end]
