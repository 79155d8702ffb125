"""`.npy` and `.npz` files of a corpus: numbers and text, of which nothing is unpickled.

What is claimed is compared with what is there before anything of the claimed size exists.
"""

from __future__ import annotations

import io
import zipfile
import zlib

from ivr_dist.corpora.files import refuse_other
from ivr_dist.corpora.source import Array
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.shards import npy

_KINDS = "fiubSU"
_MAX_ELEMENTS = 1 << 48
_MAX_RATIO = 1100
"""Bytes that a stored byte can stand for; deflate reaches 1032."""
_ENCRYPTED = 1
_TORCH = "/data.pkl"
_REMEDY = "save it with numpy.save, as plain numbers or text"
_BROKEN = (
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Raised for damaged files by numpy and zipfile, which has NotImplementedError for compressions that it lacks."""


def parse_npy(data: bytes, where: str) -> Array:
    """The array of numbers or text in a `.npy` file, read-only.

    Raises:
        DataError: It is something else; says what, as far as that can be told.
    """
    refuse_other(data, "a .npy file", where, "a .npy file")
    try:
        found = npy.parse(data, where, _KINDS, most=_MAX_ELEMENTS)
        npy.check_unicode(found)
    except CorruptDataError as error:
        raise DataError(error.what, where=where, remedy=_REMEDY) from None
    except ValueError as error:
        raise DataError(str(error), where=where, remedy=_REMEDY) from None
    return found


class NpzFile:
    """The arrays of an `.npz` file, unpacked when they are asked for.

    Args:
        data: The file.
        where: What errors call it.

    Raises:
        DataError: It is not such a file.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._where = where
        refuse_other(data, "an .npz file", where, "a zip archive")
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
            names = self._archive.namelist()
        except _BROKEN as error:
            raise DataError(f"not an .npz file: {error}", where=where, remedy="check files in the card") from None
        if any(name.endswith(_TORCH) for name in names):
            raise DataError(
                "this is what torch.save wrote, not an .npz file", where=where, remedy="save arrays with numpy.savez"
            )
        self.files = [name.removesuffix(".npy") for name in names]
        """Names of the arrays."""

    def __getitem__(self, name: str) -> Array:
        """One of them.

        Raises:
            DataError: It is not an array of numbers or text, or unpacks to more than it can.
        """
        where = f"{self._where}, array {name}"
        try:
            info = self._archive.getinfo(f"{name}.npy")
            if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is encrypted, or compressed in another way than numpy does")
            if info.file_size > info.compress_size * _MAX_RATIO:
                raise ValueError(f"{info.compress_size} bytes cannot stand for {info.file_size}")
            content = self._archive.read(info)
        except _BROKEN as error:
            raise DataError(f"it cannot be unpacked: {error}", where=where, remedy="get the file again") from None
        return parse_npy(content, where)
