"""`.npy` and `.npz` files of a corpus: numbers and text, without pickles.

Claimed sizes are compared with the actual bytes before anything is allocated.
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
"""Maximum compression ratio; that of deflate is 1032."""
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
"""Errors of numpy and zipfile for damaged files; NotImplementedError is for unknown compression methods."""


def parse_npy(data: bytes, where: str) -> Array:
    """Parse a `.npy` file of numbers or text, as a read-only array.

    Raises:
        DataError: It is of another kind, which the error names if possible.
    """
    refuse_other(data, "a .npy file", where, "a .npy file")
    try:
        array = npy.parse(data, where, _KINDS, most=_MAX_ELEMENTS)
        npy.check_unicode(array)
    except CorruptDataError as error:
        raise DataError(error.what, where=where, remedy=_REMEDY) from None
    except ValueError as error:
        raise DataError(str(error), where=where, remedy=_REMEDY) from None
    return array


class NpzFile:
    """The arrays of an `.npz` file, uncompressed on access.

    Args:
        data: The file.
        where: Name of the file, for errors.

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
                "this is a file of torch.save, not an .npz file", where=where, remedy="save arrays with numpy.savez"
            )
        self.files = [name.removesuffix(".npy") for name in names]
        """Names of the arrays."""

    def __getitem__(self, name: str) -> Array:
        """Read an array.

        Raises:
            DataError: It is not an array of numbers or text, or its compression ratio is impossible.
        """
        return parse_npy(self.content(name), f"{self._where}, array {name}")

    def content(self, name: str) -> bytes:
        """Uncompress the `.npy` file of an array.

        Raises:
            DataError: There is none, it is damaged, or its compression ratio is impossible.
        """
        where = f"{self._where}, array {name}"
        try:
            info = self._archive.getinfo(f"{name}.npy")
            if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is encrypted, or compressed by another method than those of numpy")
            if info.file_size > info.compress_size * _MAX_RATIO:
                raise ValueError(f"{info.compress_size} bytes cannot be {info.file_size} bytes compressed")
            return self._archive.read(info)
        except _BROKEN as error:
            raise DataError(f"cannot be uncompressed: {error}", where=where, remedy="get the file again") from None
