"""The files of a corpus, checked against its card."""

from __future__ import annotations

import hashlib

from ivr_dist import storage
from ivr_dist.corpora.card import SourceFile
from ivr_dist.errors import DataError


def read_source_file(root: str, file: SourceFile) -> bytes:
    """Read a file of the corpus.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: What the card says about it.

    Raises:
        DataError: It is absent, or not the file that the card describes.
    """
    place = storage.join(root, file.path)
    try:
        data = storage.read_bytes(place)
    except storage.NotFoundError:
        remedy = f"get it from: {file.origin}" if file.origin else "check the folder that is packed"
        raise DataError("a file of the corpus is missing", where=storage.display(place), remedy=remedy) from None
    if file.sha256 is not None and hashlib.sha256(data).hexdigest() != file.sha256:
        raise DataError(
            "the file is not the one that the card describes (sha256 differs)",
            where=storage.display(place),
            remedy="get that file, or pack with your own copy of the card without its sha256",
        )
    return data
