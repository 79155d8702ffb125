"""How the keys of a config are declared: `key` and `section`, with the types that several sections use."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; an open end is not allowed itself."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    @classmethod
    def of(
        cls, at_least: float | None, above: float | None, at_most: float | None, below: float | None
    ) -> Range | None:
        """The range with these bounds; None without any."""
        if (at_least, above, at_most, below) == (None,) * 4:
            return None
        low = above if at_least is None else at_least
        high = below if at_most is None else at_most
        return cls(
            -math.inf if low is None else low,
            math.inf if high is None else high,
            low_open=above is not None,
            high_open=below is not None,
        )

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        bounds = []
        if self.low != -math.inf:
            bounds.append(f"{'above' if self.low_open else 'at least'} {_text(self.low)}")
        if self.high != math.inf:
            bounds.append(f"{'below' if self.high_open else 'at most'} {_text(self.high)}")
        return " and ".join(bounds)

    def json_schema(self) -> dict[str, float]:
        """The bounds as keywords of JSON schema."""
        schema: dict[str, float] = {}
        if self.low != -math.inf:
            schema["exclusiveMinimum" if self.low_open else "minimum"] = self.low
        if self.high != math.inf:
            schema["exclusiveMaximum" if self.high_open else "maximum"] = self.high
        return schema


def _text(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


Modality = Literal["text", "audio", "vision"]
ClassPath = str | dict[str, Any]
"""A class outside the package: `package.module:Class`, or a mapping of `class` and the constructor's arguments."""


def key_name(field_name: str) -> str:
    """Return the key of a field: a field named after a Python keyword has a trailing underscore, as `class_`."""
    return field_name.removesuffix("_")


def key(
    default: Any,
    doc: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """Declare a config key.

    Args:
        default: Its value if unset.
        doc: The line that documents it, in errors, `ivr-dist config` and the JSON schema.
        at_least: The smallest value that is allowed; of a list or a mapping, the smallest number in it.
        above: Exclusive lower bound.
        at_most: The largest value that is allowed.
        below: Exclusive upper bound.
    """
    metadata = {"doc": doc, "range": Range.of(at_least, above, at_most, below)}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type, doc: str) -> Any:
    """Declare a nested section of keys."""
    return field(default_factory=kind, metadata={"doc": doc})
