"""Registry of corpus formats: built-in sources, and those of a card by dotted path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

from ivr_dist import storage
from ivr_dist.common import dotted_path
from ivr_dist.common.dotted_path import ClassReference
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.formats.arrays import ArraysSource
from ivr_dist.corpora.formats.merbench import MerbenchSource
from ivr_dist.corpora.formats.mmsa import MmsaSource
from ivr_dist.corpora.formats.mult import MultSource
from ivr_dist.corpora.formats.table import TableSource
from ivr_dist.corpora.formats.ur_funny import UrFunnySource
from ivr_dist.corpora.formats.utterances import UtterancesSource
from ivr_dist.corpora.source import NamesFiles, Opener, Source
from ivr_dist.corpora.transcript_text import TextSource, WordTable, make_table

_METHODS, _PROPERTIES = {"splits": 0, "load": 2}, ("corpus", "features", "tasks")
_ROLE = "a source"


def _csd(root: str, card: Card) -> Source:
    # h5py takes a third of a second to import, and only this format needs it.
    from ivr_dist.corpora.formats.csd import CsdSource

    return CsdSource(root, card)


FORMATS: dict[str, Callable[[str, Card], Source]] = {
    "arrays": ArraysSource,
    "table": TableSource,
    "mmsa": MmsaSource,
    "mult": MultSource,
    "csd": _csd,
    "ur_funny": UrFunnySource,
    "utterances": UtterancesSource,
    "merbench": MerbenchSource,
}
"""Factories by format: each opens the source of a corpus from the folder of its files and its card."""


def open_source(root: str, card: Card, *, trust_code: bool = False, table: WordTable | None = None) -> Source:
    """Open the files of a corpus; the same arguments give the same samples in every process.

    Where the card makes text from transcripts, all transcripts of train are read for the vocabulary first.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: The card of the corpus.
        trust_code: Whether a class outside the package that the card names as its format may be imported.
        table: What each word becomes, if another process has made it.

    Raises:
        DataError: The files are missing or contradict the card.
        UserError: The format is a class that is not trusted, cannot be imported, or is not a source.
    """
    source = _open_files(root, card, trust_code)
    if card.text is None:
        return source
    return TextSource(source, make_table(source, card, card.text, root) if table is None else table)


def _open_files(root: str, card: Card, trust_code: bool) -> Source:
    class_ref = card.source_class()
    if class_ref is None:
        assert isinstance(card.format, str)
        return FORMATS[card.format](root, card)
    source: Source = dotted_path.make(import_source(class_ref, card, trust_code), class_ref, root, card)
    missing = [name for name in _PROPERTIES if not hasattr(source, name)]
    if missing:
        raise dotted_path.lacks(class_ref, _ROLE, missing[0])
    return source


def import_source(class_ref: ClassReference, card: Card, trust_code: bool) -> type:
    """Import the class of a card's format and check it.

    Raises:
        UserError: It is not trusted, cannot be imported, lacks a method of `Source`, or takes other arguments.
    """
    where = f"card {card.name}"
    dotted_path.check_trusted(class_ref, trust_code, where)
    kind = dotted_path.import_recorded(class_ref, where)
    dotted_path.check_methods(kind, class_ref, _ROLE, _METHODS)
    dotted_path.check_arguments(kind, class_ref, positional=2)
    return kind


def opener(root: str, card: Card, source: Source) -> Opener:
    """Create the opener of the same corpus for other processes.

    Its fingerprint covers the card, sizes and times of all files (those that the card lists, and those that the source
    names), and the version of a source outside the package.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: The card.
        source: The result of `open_source`.
    """
    root = storage.absolute(root)
    paths = [file.path for file in card.files.values()]
    if isinstance(source, NamesFiles):
        paths += source.paths()
    digest = hashlib.sha256(repr(card).encode())
    if card.source_class() is not None:
        digest.update(dotted_path.version_of(type(source)).encode())
    table = source.table if isinstance(source, TextSource) else None
    if table is not None:
        digest.update(table.fingerprint.encode())
    for path, stamp in zip(paths, storage.stamps([storage.join(root, path) for path in paths]), strict=True):
        digest.update(f"{path}\n{stamp}\n".encode())
    # The source is open here, so its code is trusted.
    return Opener(partial(open_source, root, card.verified(), trust_code=True, table=table), digest.hexdigest())
