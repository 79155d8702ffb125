"""Units: parse and format intervals of training, byte sizes, counts and durations.

Parsers raise ValueError with a sentence that says what was expected, to be printed after the name of a config key.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

_INTERVAL = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?)\s*")
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
_BYTE_UNITS: dict[str, int] = {"b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_SI = ("", "k", "M", "G", "T", "P")


@dataclass(frozen=True)
class Interval:
    """An interval of training: a whole number of steps, or a number of epochs, which may be a fraction."""

    count: Fraction
    unit: Literal["steps", "epochs"]

    def steps(self, steps_per_epoch: int) -> int:
        """Return the interval in optimizer steps, rounded up, so at least 1."""
        return math.ceil(self.count if self.unit == "steps" else self.count * steps_per_epoch)


def as_written(value: float) -> Fraction:
    """Return the decimal number that the user wrote: 0.1 is one tenth, not the nearest float of 55 digits."""
    return Fraction(repr(value))


def parse_interval(text: str) -> Interval:
    """Parse `200steps`, `1epoch` or `0.5epochs`.

    Raises:
        ValueError: The text has another form, is an interval of 0, or a fraction of a step.
    """
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an interval such as 200steps, 1epoch or 0.5epochs")
    count = Fraction(match[1])
    if count == 0:
        raise ValueError(f"{text!r} is an interval of 0, at least 1step is needed")
    if match[2].startswith("epoch"):
        return Interval(count, "epochs")
    if count.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number of steps")
    return Interval(count, "steps")


def parse_bytes(text: str) -> int:
    """Parse `256MiB` (powers of 1024), `1GB` (powers of 1000) or `512B`, in any case; fractions are rounded down.

    Raises:
        ValueError: The text has another form, such as a number without a unit.
    """
    match = _BYTES.fullmatch(text)
    factor = _BYTE_UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size in bytes such as 512KiB, 256MiB or 1GB")
    return math.floor(Fraction(match[1]) * factor)


def format_bytes(count: float) -> str:
    """Format a size in bytes in SI units with three digits: `512 B`, `1.50 kB`, `12.3 MB`, `456 GB`."""
    return f"{format_count(count)}B" if count >= 1000 else f"{count:.0f} B"


def format_count(count: float) -> str:
    """Format a count with three digits and an SI prefix, to be followed by a unit: `512`, `1.50 k`, `12.3 M`."""
    if count < 1000:
        return f"{count:.0f}"
    power = 0
    # From 999.5 on it would be rounded to four digits, so the next prefix is used.
    while count >= 999.5 and power < len(_SI) - 1:
        count /= 1000
        power += 1
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{digits}f} {_SI[power]}"


def format_duration(seconds: float) -> str:
    """Format a duration: `3.2 s`, `45 s`, `1 min 23 s`, from an hour on `1:02:03`, and `?` if it is unknown.

    Args:
        seconds: The duration, not negative; a value that is not finite is unknown.
    """
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{second} s"
    if minutes < 60:
        return f"{minutes} min {second} s"
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
