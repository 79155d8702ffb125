"""Lazy arrays of a pickle: their bytes stay in the file until they are accessed.

A pickle has numpy's objects in parts: a data type, then its byte order; an empty array, then its shape and bytes. The
classes here accept the parts, and refuse contradictions before anything of the claimed size is allocated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ivr_dist.corpora.readers.texts import as_text
from ivr_dist.corpora.source import Array
from ivr_dist.sanitize import shorten
from ivr_dist.shards import npy

_DTYPE = re.compile(r"[fiubSUO]\d{1,9}")
_NOT_READ = {"c": "complex numbers", "M": "dates", "m": "durations", "V": "records"}
_ORDERS = ("<", ">", "=", "|")
_MAX_DIMENSIONS = 8
_MAX_ELEMENTS = 1 << 48
_MAX_BYTES_IN_ERROR = 40
_MAX_REPEATED = 1 << 22
"""Maximum number of values in repeated rows of a list: a file can repeat one long row with two bytes."""


class RangeSource(Protocol):
    """A file of which ranges are read."""

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes [start, end)."""


@dataclass(frozen=True, slots=True)
class InMemory:
    """A file in memory."""

    data: bytes

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes [start, end)."""
        return self.data[start:end]


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes that stay in the file."""

    file: RangeSource
    start: int
    size: int

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes [start, end) of the range."""
        return self.file.read(self.start + start, self.start + end)


class PickledDtype:
    """A data type: first its kind and width, later the byte order."""

    __slots__ = ("_code", "_numpy", "_order")

    def __init__(self, code: str) -> None:
        if not _DTYPE.fullmatch(code):
            kind, code = _NOT_READ.get(code[:1], ""), shorten(code, _MAX_BYTES_IN_ERROR)
            name = f"{kind} ({code})" if kind else repr(code)
            raise ValueError(f"arrays of {name} are not read, only numbers and text")
        self._code = code
        self._order = "="
        self._numpy: np.dtype[Any] | None = None

    def set_state(self, state: Any) -> None:
        """Set the state of a data type in the pickle: (version, order, subtype, names, fields, ...)."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in _ORDERS:
            raise ValueError("a data type does not have the format of numpy")
        if state[2:5] != (None, None, None):
            raise ValueError("arrays of records are not read")
        self._order = state[1]
        self._numpy = None

    @property
    def holds_objects(self) -> bool:
        """Whether it is the type of Python objects."""
        return self._code[0] == "O"

    def numpy(self) -> np.dtype[Any]:
        """Convert to a dtype of numpy; TypeError for a width that numpy lacks."""
        if self._numpy is None:
            self._numpy = np.dtype(self._order.replace("|", "=") + self._code)
            if self._numpy.itemsize == 0:
                raise ValueError("texts without a width are not read")
        return self._numpy


class PickledArray:
    """An array in a pickle: numbers or text of one width, or a list of Python objects."""

    __slots__ = ("_dtype", "_fortran", "_items", "_payload", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self._dtype: np.dtype[Any] = np.dtype(np.float64)
        self._fortran = False
        self._payload: bytes | FileRange = b""
        self._items: list[Any] | None = None

    def set_state(self, state: Any) -> None:
        """Set the state of an array in the pickle: (version, shape, data type, is Fortran order, content)."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], PickledDtype):
            raise ValueError("an array does not have the format of numpy")
        self.fill(state[4], state[2], state[1], bool(state[3]))

    def fill(self, content: Any, dtype: PickledDtype, shape: Any, fortran: bool) -> None:
        """Set shape and content, whose lengths must match."""
        sound = isinstance(shape, tuple) and len(shape) <= _MAX_DIMENSIONS
        if not sound or not all(type(extent) is int and extent >= 0 for extent in shape):
            raise ValueError("an array has no shape")
        # Extents beside a 0 count as well, because numpy refuses their product.
        if math.prod(extent or 1 for extent in shape) > _MAX_ELEMENTS:
            raise ValueError(f"an array has the shape {list(shape)}")
        self.shape = shape
        self._fortran = fortran
        count = math.prod(shape)
        if dtype.holds_objects:
            if not isinstance(content, list) or len(content) != count or (fortran and len(shape) > 1):
                raise ValueError(f"an array of objects does not have the {count} objects of its shape")
            self._items = content
            return
        self._dtype = dtype.numpy()
        self._payload = content if isinstance(content, FileRange) else as_bytes(content)
        size = self._payload.size if isinstance(self._payload, FileRange) else len(self._payload)
        if size != count * self._dtype.itemsize:
            expected = count * self._dtype.itemsize
            raise ValueError(f"an array {list(shape)} of {self._dtype} takes {expected} bytes, but has {size}")

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def dtype(self) -> str:
        """Name of its data type, for errors."""
        return "Python objects" if self._items is not None else str(self._dtype)

    @property
    def kind(self) -> str:
        """Letter of numpy for the kind of its data type."""
        return "O" if self._items is not None else self._dtype.kind

    @property
    def items(self) -> list[Any] | None:
        """Python objects of the array in C order; None where it holds numbers or text of one width."""
        return self._items

    def row(self, number: int) -> Array:
        """Read the entry `number` of the first dimension, [...]; only its bytes are read if the array is in C order.

        Raises:
            ValueError: The array holds Python objects.
        """
        if self._items is not None:
            raise ValueError("an array of objects has no rows of numbers")
        if self._fortran or not self.shape:
            return self.load()[number]  # type: ignore[no-any-return]
        shape = self.shape[1:]
        size = math.prod(shape) * self._dtype.itemsize
        start = number * size
        payload = self._payload
        data = payload.read(start, start + size) if isinstance(payload, FileRange) else payload[start : start + size]
        return np.frombuffer(data, self._dtype).reshape(shape)

    def load(self) -> Array:
        """Read the whole array; one in Fortran order stays in memory afterwards.

        Raises:
            ValueError: The array holds Python objects.
        """
        if self._items is not None:
            raise ValueError("an array of objects is not one of numbers")
        data = self._payload.read(0, self._payload.size) if isinstance(self._payload, FileRange) else self._payload
        if self._fortran:
            self._payload = data
        flat: npt.NDArray[Any] = np.frombuffer(data, self._dtype)
        npy.check_unicode(flat)
        return flat.reshape(self.shape, order="F" if self._fortran else "C")


def scalar(dtype: PickledDtype, content: Any) -> Any:
    """Decode a numpy scalar; text and whole numbers become Python's, because they may be keys of a dictionary."""
    array = PickledArray()
    array.fill(content, dtype, (), fortran=False)
    value = array.load()[()]
    return value.item() if array.load().dtype.kind in "iubSU" else value


def as_bytes(content: Any) -> bytes:
    """Convert to bytes, which Python 2 wrote as text with one byte for each character."""
    if isinstance(content, str):
        return content.encode("latin-1")
    if not isinstance(content, bytes):
        raise ValueError("the content of an array is not bytes")
    return content


def as_numbers(values: Any) -> Array:
    """Convert a list of single numbers to [n].

    Raises:
        ValueError: It holds other values. Nested lists are refused, because they can share parts and then represent
            more than fits in memory.
    """
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, int | float | np.floating) for value in values
    ):
        raise ValueError("not a list of numbers")
    return np.array(values)


def as_rows(values: Any, width: int | None = None) -> Array:
    """Convert an array, or a list of arrays or of lists of numbers of one width, to [n, D].

    Args:
        values: The rows; an empty list becomes [0, D].
        width: D; None: that of the first row.

    Raises:
        ValueError: It has another type, or another width.
    """
    if isinstance(values, PickledArray):
        if values.items is None:
            rows = values.load()
            if rows.ndim == 1 and not rows.size:
                rows = rows.reshape(0, width or 0)
            if rows.ndim != 2 or rows.dtype.kind not in "fiub" or (width is not None and rows.shape[1] != width):
                raise ValueError(
                    f"an array {list(rows.shape)} of {rows.dtype} instead of [steps, {width or 'features'}]"
                )
            return rows
        values = values.items
    if not isinstance(values, list | tuple):
        raise ValueError("not a list of steps")
    if not values:
        return np.zeros((0, width or 0))
    width = len(_vector(values[0])) if width is None else width
    repeated = len(values) - len({id(row) for row in values})
    if repeated * width > _MAX_REPEATED:
        raise ValueError(f"{repeated} of {len(values)} steps of {width} features are repeated rows")
    vectors = [_vector(row) for row in values]
    if any(len(vector) != width for vector in vectors):
        raise ValueError(f"the steps do not all have {width} features")
    return np.stack(vectors)


def _vector(row: Any) -> Array:
    if isinstance(row, list | tuple):
        return as_numbers(row)
    vector = row.load() if isinstance(row, PickledArray) else None
    if vector is None or vector.ndim != 1 or vector.dtype.kind not in "fiub":
        raise ValueError("a step is not a list of numbers")
    return vector


def as_texts(values: Any, text: Callable[[Any], str] = as_text) -> list[str]:
    """Convert a list, tuple or array of texts, bytes or numbers to texts, in C order.

    Args:
        values: The list.
        text: Converts each entry; `as_spoken` for transcripts, some of which may be missing.

    Raises:
        ValueError: It has another type.
        BadEntryError: An entry cannot be converted.
    """
    if isinstance(values, PickledArray):
        values = values.load().reshape(-1).tolist() if values.items is None else values.items
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ValueError("not a list of texts")
    texts = []
    for value in values:
        try:
            texts.append(text(value))
        except ValueError as error:
            raise BadEntryError(len(texts), str(error)) from None
    return texts


class BadEntryError(ValueError):
    """An invalid entry of a list.

    Args:
        number: Index in the list.
        what: The reason.
    """

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"{what} (entry {number} of the list)")
        self.number = number
        self.what = what
