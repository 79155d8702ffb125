"""Text files of word vectors, as GloVe, word2vec and fastText write them: a word and its numbers on each line."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.files import open_source_file, refuse_other
from ivr_dist.corpora.source import Array
from ivr_dist.errors import DataError
from ivr_dist.shards.manifest import MAX_WIDTH

_HEAD = 512
_REMEDY = "give a text file with a word and its numbers on each line, separated by single spaces"


def read_vectors(root: str, file: SourceFile, wanted: Collection[str]) -> dict[str, Array]:
    """Read the vectors of some words; the file may be far larger than memory.

    A first line of two whole numbers (count and width, as word2vec writes it) is skipped. Of a word that occurs twice
    the first vector counts.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: Its entry in the card.
        wanted: The words.

    Returns:
        [D] float32 vectors by word, for the words that the file has.

    Raises:
        DataError: It is missing, has another checksum, or a line is not of that form; names the line.
    """
    keys = {word.encode("utf-8", "replace"): word for word in wanted}
    vectors: dict[str, Array] = {}
    width = 0
    with open_source_file(root, file) as stream:
        head = stream.read(_HEAD)
        refuse_other(head, "a text file of word vectors", file.path)
        stream.seek(0)
        for line, content in enumerate(stream, start=1):
            content = content.rstrip(b"\r\n ")
            if not content or (line == 1 and len(content.split()) == 2):
                continue
            if not width:
                width = len(content.split()) - 1
                if not 1 <= width <= MAX_WIDTH:
                    raise DataError("the line has no numbers", where=f"{file.path}, line {line}", remedy=_REMEDY)
            word = keys.get(content[: content.find(b" ")])
            if word is None or word in vectors:
                continue
            # A word may itself hold spaces in some files (". . ."); it is then not the one that was asked for.
            fields = content.split(b" ")[1:]
            if len(fields) > width:
                continue
            try:
                vector = np.array(fields, dtype=bytes).astype(np.float32)
            except ValueError:
                vector = np.array([np.nan])
            if len(vector) != width or not np.isfinite(vector).all():
                what = f"the line is not a word and {width} numbers"
                raise DataError(what, where=f"{file.path}, line {line}", remedy=_REMEDY)
            vectors[word] = vector
    return vectors
