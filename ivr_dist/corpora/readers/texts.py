"""Texts of source files: conversion from strings, bytes and numbers, and placeholders of missing values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ivr_dist.sanitize import shorten

PLACEHOLDERS = frozenset(("nan", "NaN", "None", "NaT", "<NA>", "null"))
"""Texts that programs write for a missing value. They may also be words, so they are kept and reported."""


class OldText(str):
    """A text of Python 2, with bytes in an unknown encoding, as one character for each byte."""

    __slots__ = ()


def is_missing(value: Any) -> bool:
    """Whether a value is missing: None, or NaN."""
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def as_text(value: Any) -> str:
    """Convert a text, bytes in UTF-8, or a number to text.

    Raises:
        ValueError: It has another type, or is missing.
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
    """Convert a transcript like `as_text`; empty where it is missing."""
    return "" if is_missing(value) else as_text(value)
