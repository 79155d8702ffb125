"""Corpora: cards that describe them, and sources that read them for packing."""

from __future__ import annotations

from ivr_dist.corpora.arrays import ArraysSource
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.source import Source
from ivr_dist.corpora.table import TableSource


def open_source(root: str, card: Card) -> Source:
    """Open the files of a corpus.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: What the corpus is.

    Raises:
        DataError: The files are missing or are not what the card says.
    """
    return ArraysSource(root, card) if card.format == "arrays" else TableSource(root, card)
