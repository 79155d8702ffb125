"""Local files in the memory of the system, without a copy."""

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

# A foreign function lets other threads run while it does.
_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


class MappedFile:
    """A local file of which parts are used where the system has them, without copying them; safe to use from threads.

    What is mapped must stay as it is: the process dies if the file is cut short while a part of it is used.

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
        """Have the system read the bytes [start, end) in the background; what is wrong is told by `view`."""
        with suppress(OSError):
            os.posix_fadvise(self._opened(), start, end - start, os.POSIX_FADV_WILLNEED)

    def view(self, start: int, end: int) -> memoryview:
        """Those of the bytes [start, end) that the file has, read from the disk by now."""
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
        # Some file systems cannot map, and an empty file cannot be mapped.
        with suppress(OSError, ValueError):
            mapped = mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ)
            self._address = np.frombuffer(mapped, np.uint8).ctypes.data
            self._map = mapped
        return self._descriptor

    def _mapped(self, start: int, end: int) -> memoryview | None:
        """A part of the map, if the system can tell that all of it is there."""
        if self._map is None or end > len(self._map):
            return None
        first = start - start % mmap.PAGESIZE
        # A page that cannot be read is an error here, and not the death of the process later. Not by `mmap.madvise`,
        # which keeps all other threads of Python waiting for the disk.
        if _libc.madvise(self._address + first, end - first, _MADV_POPULATE_READ):
            return None
        return memoryview(self._map)[start:end]
