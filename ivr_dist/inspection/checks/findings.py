"""What `verify` finds wrong with packed data."""

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
]
"""What is wrong: the manifest itself; it is not what the card says; a file is not there, cannot be read, or is named by
nobody; a size or checksum differs; index and tar disagree; the tar is damaged; a sample has not the layout of a sample;
it has values that are not finite, or tokens outside the vocabulary; a label is out of range; a number differs; an id is
there twice; a group (video) is in two splits."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    what: str
    """A sentence without its full stop."""
    where: str
    """The file, and the sample in it."""

    def __str__(self) -> str:
        """Render one line."""
        return f"{self.where}: {self.what}"
