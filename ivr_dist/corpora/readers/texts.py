"""Texts of source files, whatever type the programs gave them that wrote the files."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ivr_dist.sanitize import shorten

PLACEHOLDERS = frozenset(("nan", "NaN", "None", "NaT", "<NA>", "null"))
"""What programs make of a missing value when they turn it into text. They may be words, so they are kept, and told."""


class OldText(str):
    """A text of Python 2: a string of bytes, of an encoding that the file does not name; a character for each byte."""

    __slots__ = ()


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, or NaN."""
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def as_text(value: Any) -> str:
    """A text, bytes in UTF-8, or a number, as text.

    Raises:
        ValueError: It is something else, or there is none.
    """
    if is_missing(value):
        raise ValueError(f"{'None' if value is None else 'NaN'} where a text should be")
    if isinstance(value, OldText):
        value = value.encode("latin-1")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{shorten(repr(value), 60)} is not UTF-8 text: byte 0x{value[error.start]:02x}") from None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        return str(value)
    raise ValueError("not a text")


def as_spoken(value: Any) -> str:
    """A transcript: as `as_text`, and empty where there is none."""
    return "" if is_missing(value) else as_text(value)
