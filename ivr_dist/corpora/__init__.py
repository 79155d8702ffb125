"""Corpora: cards that describe them, and sources that read them for packing."""

from __future__ import annotations

from collections.abc import Callable

from ivr_dist.corpora.arrays import ArraysSource
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.mmsa import MmsaSource
from ivr_dist.corpora.mult import MultSource
from ivr_dist.corpora.source import Source
from ivr_dist.corpora.table import TableSource
from ivr_dist.corpora.ur_funny import UrFunnySource


def open_source(root: str, card: Card) -> Source:
    """Open the files of a corpus; the same arguments give the same samples in every process.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: What the corpus is.

    Raises:
        DataError: The files are missing or are not what the card says.
    """
    return _FORMATS[card.format](root, card)


def _csd(root: str, card: Card) -> Source:
    # h5py takes a third of a second to import, and only this format needs it.
    from ivr_dist.corpora.csd import CsdSource

    return CsdSource(root, card)


_FORMATS: dict[str, Callable[[str, Card], Source]] = {
    "arrays": ArraysSource,
    "table": TableSource,
    "mmsa": MmsaSource,
    "mult": MultSource,
    "csd": _csd,
    "ur_funny": UrFunnySource,
}
