"""Standard streams whose failures never end a command.

A service may start a command without streams, their reader may exit (`| head`), the terminal may be closed, the disk
may be full. Work of hours must not fail because of that: output that cannot be written is dropped, and the command
continues. At its end it reports the loss, if somebody misses the output.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_GONE = frozenset((errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET))
"""Errors that mean that there is no reader: a pipe was closed, or a terminal."""


class Output(io.RawIOBase):
    """A raw stream that writes to a file descriptor and drops data that cannot be written.

    Args:
        descriptor: The file descriptor; it stays open when the stream is closed.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.error: OSError | None = None
        """The first failure by which a reader misses data; None if there was none, or there is no reader."""

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Write all of `data`, or drop it; return its length either way."""
        view, done = memoryview(data).cast("B"), 0
        while done < len(view):
            try:
                done += os.write(self._descriptor, view[done:])
            except BlockingIOError:
                # Another program that shares this terminal or pipe has made it non-blocking.
                select.select((), (self._descriptor,), ())
            except OSError as error:
                if error.errno not in _GONE or stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                    self.error = self.error or error
                break
        return len(view)


@contextmanager
def lasting_streams() -> Iterator[Output | None]:
    """Replace stdout and stderr by streams that accept any text and never fail, until the context ends.

    Streams that were replaced already, such as by pytest, are left alone.

    Yields:
        The raw stream of stdout, whose `error` is complete once the context has ended; None if it was left alone.
    """
    _open_missing()
    before = (sys.stdout, sys.stderr)
    out = _wrapped("stdout", sys.__stdout__)
    _wrapped("stderr", sys.__stderr__)
    try:
        yield out
    finally:
        replaced = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = before
        for stream, old in zip(replaced, before, strict=True):
            if stream is not old:
                with suppress(ValueError):
                    stream.flush()


def _open_missing() -> None:
    """Open /dev/null for each missing standard descriptor, whose number the next opened file would get otherwise."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The kernel assigns the lowest free number, which is this one; child processes inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 (stays open)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _wrapped(name: str, original: TextIO | None) -> Output | None:
    """Replace a standard stream by one that drops data that cannot be written."""
    stream = getattr(sys, name)
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        return None
    with suppress(OSError):
        stream.flush()
    raw = Output(stream.fileno())
    # Unbuffered like Python's own stderr, so that lines of both streams keep their order.
    lines = stream.line_buffering or stream.write_through
    text = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=lines)
    setattr(sys, name, text)
    return raw
