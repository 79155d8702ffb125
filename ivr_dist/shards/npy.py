"""Parser of `.npy` bytes, without pickles and without copying; checks every size before allocating."""

from __future__ import annotations

import ast
import io
import math
import re
import sys
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist.common.file_signatures import HEAD, other_kind
from ivr_dist.errors import CorruptDataError
from ivr_dist.sanitize import shorten

NUMBERS = "fiub"
"""Kinds of dtypes: floats, integers, unsigned integers, booleans."""
BYTES = "S"
"""Kind of dtypes: byte strings of one length."""

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000
_MAX_DIMENSIONS = 8
MAX_ELEMENTS = 2**31 - 1
"""Maximum number of elements of an array in a shard; lengths are stored in 32 bits."""
_V1_HEAD = 10
_KINDS = {
    "O": "Python objects",
    "c": "complex numbers",
    "M": "dates",
    "m": "durations",
    "V": "raw bytes",
    "U": "text",
    "S": "bytes of text",
}
_ACCEPTED = {NUMBERS: "plain numbers", BYTES: "bytes"}
_LONG = re.compile(r"(\d)L\b")
_DTYPE = re.compile(r"[<>|]([a-zA-Z])(\d{1,5})")


def parse(
    data: bytes | memoryview,
    where: str,
    kinds: str = NUMBERS,
    start: int = 0,
    end: int | None = None,
    most: int = MAX_ELEMENTS,
) -> npt.NDArray[Any]:
    """Parse a `.npy` file without copying it, as a read-only view of `data`.

    Args:
        data: Bytes that contain the file.
        where: Shard and member, for errors.
        kinds: Kinds of dtypes that are accepted.
        start: Offset of the file in `data`.
        end: Offset of its end; None: the end of `data`.
        most: Maximum number of elements of the array.

    Raises:
        CorruptDataError: It is not such a file, its dtype is of another kind, or its payload contradicts its header.
    """
    end = len(data) if end is None else end
    # Most arrays have the same header as an earlier one, so parsed headers are cached.
    length = _V1_HEAD + int.from_bytes(data[start + 8 : min(start + _V1_HEAD, end)], "little")
    cached = _described(bytes(data[start : min(start + length, end)]), kinds)
    if cached is not None and cached[3] == end - start - length:
        shape, dtype, fortran, size = cached
    else:
        data, start, end = memoryview(data)[start:end], 0, end - start
        shape, dtype, fortran, length = parse_header(data, where, kinds, most)
        size = math.prod(shape) * dtype.itemsize
        if end - length != size:
            raise _refused(f"an array {list(shape)} of {dtype} takes {size} bytes, but has {end - length}", where)
    if not size:
        return np.zeros(shape, dtype)
    flat: npt.NDArray[Any] = np.frombuffer(data, dtype, size // dtype.itemsize, start + length)
    return flat.reshape(shape, order="F") if fortran else flat.reshape(shape)


@lru_cache(maxsize=1024)
def _described(header: bytes, kinds: str) -> tuple[tuple[int, ...], np.dtype[Any], bool, int] | None:
    """Parse a header: shape, dtype, whether in Fortran order, bytes of the payload; None if it is not just a header."""
    try:
        shape, dtype, fortran, length = parse_header(header, "", kinds)
    except CorruptDataError:
        return None
    size = math.prod(shape) * dtype.itemsize
    return (shape, dtype, fortran, size) if size and length == len(header) and header[6] == 1 else None


@lru_cache(maxsize=4096)
def header(descr: str, shape: tuple[int, ...]) -> bytes:
    """Make the header of an array in C order, as numpy writes it; `descr` is a dtype such as `<f4`."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


def parse_header(
    data: bytes | memoryview, where: str, kinds: str = NUMBERS, most: int = MAX_ELEMENTS
) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Parse a header: shape, dtype, whether in Fortran order, and offset of the payload, which may be missing."""
    head = bytes(data[:12])
    if len(head) < 10 or head[:6] != _MAGIC or head[6] not in (1, 2, 3):
        other = other_kind(bytes(data[:HEAD]), "a .npy file", "a .npy file")
        raise _refused("not a .npy file" if other is None else other[0], where)
    width = 2 if head[6] == 1 else 4
    start = 8 + width
    length = int.from_bytes(head[8:start], "little")
    if length > _MAX_HEADER or len(data) < start + length:
        raise _refused("the .npy header is cut off or too long", where)
    try:
        text = bytes(data[start : start + length]).decode("utf-8" if head[6] == 3 else "latin1")
        header = _literal(text)
        shape, fortran, descr = header["shape"], header["fortran_order"], header["descr"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise _refused("the .npy header cannot be read", where) from error
    sound = isinstance(shape, tuple) and len(shape) <= _MAX_DIMENSIONS and isinstance(fortran, bool)
    if not sound or not all(type(extent) is int and extent >= 0 for extent in shape):
        raise _refused("the .npy header has no shape", where)
    # Extents beside a 0 count as well, because numpy refuses their product.
    if math.prod(extent or 1 for extent in shape) > most:
        raise _refused(f"the .npy header has a shape of more than {most} elements", where)
    return shape, _dtype(descr, kinds, where), fortran, start + length


def count_rounded(values: npt.NDArray[Any], dtype: str) -> int:
    """Count the whole numbers that a float dtype does not hold to the last digit, such as large counts or times."""
    if values.dtype.kind not in "iu" or 8 * values.itemsize <= np.finfo(dtype).nmant + 1:
        return 0
    with np.errstate(over="ignore", invalid="ignore"):
        return int(np.count_nonzero(values.astype(dtype).astype(np.longdouble) != values.astype(np.longdouble)))


def check_unicode(values: npt.NDArray[Any]) -> None:
    """Check that numpy's text (kind U) is text: the four bytes of a character may hold any number.

    Raises:
        ValueError: A number is not a character of Unicode.
    """
    if values.dtype.kind == "U" and values.size and values.dtype.itemsize:
        letters = np.ascontiguousarray(values).view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
        if int(letters.max()) > sys.maxunicode:
            raise ValueError("text with invalid characters")


@lru_cache(maxsize=1024)
def _literal(text: str) -> Any:
    """Parse the text of a header; cached, because most arrays share theirs, and parsing it is the slowest part."""
    try:
        return ast.literal_eval(text.strip())
    except SyntaxError:
        # Python 2 wrote integers such as 10L.
        return ast.literal_eval(_LONG.sub(r"\1", text.strip()))


def _dtype(descr: object, kinds: str, where: str) -> np.dtype[Any]:
    """Parse the dtype of a header; `np.dtype` alone would also accept records, aliases and objects."""
    match = _DTYPE.fullmatch(descr) if isinstance(descr, str) else None
    try:
        if match and match[1] in kinds and int(match[2]) > 0:
            return np.dtype(match[0])
    except TypeError:
        pass  # a width that numpy does not have, such as f3
    name = repr(shorten(descr, 20)) if isinstance(descr, str) else "records"
    if isinstance(descr, str) and (kind := _KINDS.get(descr[1:2])):
        name = f"{kind} ({shorten(descr, 20)})"
    accepted = _ACCEPTED.get(kinds, "plain numbers or text")
    raise _refused(f"arrays of {name} are not read, only {accepted}", where)


def _refused(what: str, where: str) -> CorruptDataError:
    return CorruptDataError(what, where=where, remedy="pack the split again from undamaged files")
