"""Findings of `verify`: problems of packed data, by kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "manifest",
    "card",
    "missing",
    "unreadable",
    "leftover",
    "size",
    "sha256",
    "xxh3",
    "index",
    "tar",
    "sample",
    "values",
    "label",
    "count",
    "duplicate",
    "group",
    "hashes",
]
"""In this order: the manifest is invalid; it differs from the card; a file is missing, cannot be read, or is not in the
manifest; a size or checksum differs; index and tar disagree; the tar is damaged; a sample violates the layout; it has
non-finite values, or tokens outside the vocabulary; a label is out of range; a count differs; an id is duplicated; a
group (video) is in two splits; the sample hashes are not those of the samples."""


@dataclass(frozen=True)
class Finding:
    """One problem of packed data."""

    kind: Kind
    what: str
    """A sentence without its full stop."""
    where: str
    """The file, and the sample in it if it concerns one."""

    def __str__(self) -> str:
        """Render one line."""
        return f"{self.where}: {self.what}"
