"""Corpora: cards that describe them, and sources that read them for packing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.formats.arrays import ArraysSource
from ivr_dist.corpora.formats.mmsa import MmsaSource
from ivr_dist.corpora.formats.mult import MultSource
from ivr_dist.corpora.formats.table import TableSource
from ivr_dist.corpora.formats.ur_funny import UrFunnySource
from ivr_dist.corpora.source import Opener, Source


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
    from ivr_dist.corpora.formats.csd import CsdSource

    return CsdSource(root, card)


_FORMATS: dict[str, Callable[[str, Card], Source]] = {
    "arrays": ArraysSource,
    "table": TableSource,
    "mmsa": MmsaSource,
    "mult": MultSource,
    "csd": _csd,
    "ur_funny": UrFunnySource,
}


def opener(root: str, card: Card, source: Source) -> Opener:
    """How other processes open a corpus that is open here.

    Its fingerprint is of the card and of the sizes and times of all files: those that the card lists, and those that a
    table names.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: What the corpus is.
        source: What `open_source` made of them.
    """
    root = storage.absolute(root)
    paths = [file.path for file in card.files.values()]
    if isinstance(source, TableSource):
        paths += source.paths()
    found = hashlib.sha256(repr(card).encode())
    for path, stamp in zip(paths, storage.stamps([storage.join(root, path) for path in paths]), strict=True):
        found.update(f"{path}\n{stamp}\n".encode())
    return Opener(partial(open_source, root, card.verified()), found.hexdigest())
