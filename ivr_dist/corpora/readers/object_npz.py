"""Object arrays of `.npz` files: a Python object, such as a dictionary, saved by numpy as a pickle."""

from __future__ import annotations

from typing import Any

from ivr_dist import storage
from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.files import read_source_file
from ivr_dist.corpora.readers.numpy_file import NpzFile
from ivr_dist.corpora.readers.pickle_arrays import PickledArray
from ivr_dist.corpora.readers.safe_pickle import parse_pickle
from ivr_dist.errors import DataError

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
"""Bytes of the header's length, by major version of the format."""
_PREFIX = len(_MAGIC) + 2
_OBJECTS = b"'|O'"


def read_object_npz(root: str, file: SourceFile) -> dict[str, Any]:
    """Read the single objects of an `.npz` file by name; pickles are read as by `safe_pickle`.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: Its entry in the card.

    Raises:
        DataError: It is missing, has another checksum, is damaged, or holds something else.
    """
    where = storage.display(storage.join(root, file.path))
    archive = NpzFile(read_source_file(root, file), where)
    return {name: _object(archive.content(name), f"{where}, array {name}") for name in archive.files}


def _object(content: bytes, where: str) -> Any:
    width = _LENGTH_BYTES.get(content[len(_MAGIC)], 0) if len(content) > _PREFIX else 0
    length = int.from_bytes(content[_PREFIX : _PREFIX + width], "little")
    start = _PREFIX + width + length
    if not content.startswith(_MAGIC) or not width or _OBJECTS not in content[:start]:
        raise DataError("not an array of a Python object", where=where, remedy="check files in the card")
    array = parse_pickle(content[start:], where)
    if not isinstance(array, PickledArray) or array.items is None or len(array.items) != 1:
        raise DataError("not an array of a single Python object", where=where, remedy="check files in the card")
    return array.items[0]
