"""The standard streams of a command, such that nothing that happens to them ends it.

A service may start a command without them, its reader may go away (`| head`), its terminal may be closed, the disk
behind it may be full. Work that takes hours must not end for that: what cannot be written is dropped, and the command
goes on. Whether that matters is told at the end.
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
"""Nobody reads any more: a pipe whose reader has ended, a terminal that was closed."""


class Output(io.RawIOBase):
    """What is written to a descriptor, or dropped where that fails.

    Args:
        descriptor: Stays open when this is closed.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.error: OSError | None = None
        """The first failure for which a reader misses something; None if there was none, or there is no reader."""

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal's."""
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Write, or drop, all of `data`."""
        view, done = memoryview(data).cast("B"), 0
        while done < len(view):
            try:
                done += os.write(self._descriptor, view[done:])
            except BlockingIOError:
                # Another program has made the terminal or pipe that it shares with this one non-blocking.
                select.select((), (self._descriptor,), ())
            except OSError as error:
                if error.errno not in _GONE or stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                    self.error = self.error or error
                break
        return len(view)


@contextmanager
def lasting_streams() -> Iterator[Output | None]:
    """Let a command print whatever becomes of its standard streams, in whatever encoding they have.

    Streams that another program has put into `sys`, such as a test's, are left as they are.

    Yields:
        Where stdout goes, whose `error` is known once the context has ended; None where it was left as it is.
    """
    _open_missing()
    before = (sys.stdout, sys.stderr)
    out = _wrapped("stdout", sys.__stdout__)
    _wrapped("stderr", sys.__stderr__)
    try:
        yield out
    finally:
        mine = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = before
        for stream, old in zip(mine, before, strict=True):
            if stream is not old:
                with suppress(ValueError):
                    stream.flush()


def _open_missing() -> None:
    """Have something behind every standard descriptor: else the next file that is opened gets, say, stdout's number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one; programs that are started from here need it as well.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 (it stays)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _wrapped(name: str, original: TextIO | None) -> Output | None:
    """Put a stream that drops what cannot be written in the place of a standard one."""
    stream = getattr(sys, name)
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        return None
    with suppress(OSError):
        stream.flush()
    raw = Output(stream.fileno())
    # Python's stderr passes on at once what it is given, so that its lines stand where they belong among others'.
    lines = stream.line_buffering or stream.write_through
    text = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=lines)
    setattr(sys, name, text)
    return raw
