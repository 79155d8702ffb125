"""A fault of a config: the keys that it concerns, what is wrong, and a remedy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault, before its origin in a file is known."""

    keys: tuple[str, ...]
    what: str
    remedy: str
