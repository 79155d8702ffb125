"""Registry of corpus formats: opens the source of a card's format."""

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
    """Open the files of a corpus; the same arguments result in the same samples in every process.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: The card.

    Raises:
        DataError: Files are missing, or do not match the card.
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
    """Make the opener with which other processes open the same corpus.

    Its fingerprint is a hash of the card and of the sizes and times of all files: those that the card lists, and those
    that a table names.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: The card.
        source: The result of `open_source`.
    """
    root = storage.absolute(root)
    paths = [file.path for file in card.files.values()]
    if isinstance(source, TableSource):
        paths += source.paths()
    digest = hashlib.sha256(repr(card).encode())
    for path, stamp in zip(paths, storage.stamps([storage.join(root, path) for path in paths]), strict=True):
        digest.update(f"{path}\n{stamp}\n".encode())
    return Opener(partial(open_source, root, card.verified()), digest.hexdigest())
