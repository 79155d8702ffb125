"""Ranges of numbers: what a key of the config allows."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
