"""Printing of plain text: sanitized, in what the stream can represent."""

from __future__ import annotations

import sys
from typing import TextIO

from ivr_dist.sanitize import plain, plain_lines, writable


def say(text: str, stream: TextIO | None = None, *, flush: bool = False) -> None:
    """Print one sanitized line.

    Args:
        text: The line.
        stream: Destination; None: stdout.
        flush: Whether to flush the stream.
    """
    stream = sys.stdout if stream is None else stream
    print(writable(plain(text), stream), file=stream, flush=flush)


def say_lines(text: str, stream: TextIO) -> None:
    """Print a sanitized text of several lines, and flush the stream."""
    print(writable(plain_lines(text), stream), file=stream, flush=True)
