"""Arrays of a pickle whose bytes stay in the file until they are asked for.

What pickles hold of numpy arrives in pieces: a data type, then how it is stored; an empty array, then its shape and
bytes. The classes here take the pieces and refuse what cannot be before anything of the claimed size exists.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
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
"""Numbers that the repeated rows of a list may have: a file can say one long row again in two bytes."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes that were left in the file."""

    file: storage.RangeReader
    start: int
    size: int

    def read(self, start: int, end: int) -> bytes:
        """Some of them."""
        return self.file.read(self.start + start, self.start + end)


class PickledDtype:
    """A data type: its kind and width come first, the order of its bytes later."""

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
        """Take what the pickle says about a data type: (version, order, subtype, names, fields, ...)."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in _ORDERS:
            raise ValueError("a data type is not described as numpy does")
        if state[2:5] != (None, None, None):
            raise ValueError("arrays of records are not read")
        self._order = state[1]
        self._numpy = None

    @property
    def holds_objects(self) -> bool:
        """Whether it stands for Python objects."""
        return self._code[0] == "O"

    def numpy(self) -> np.dtype[Any]:
        """The same for numpy; TypeError for a width that it does not have."""
        if self._numpy is None:
            self._numpy = np.dtype(self._order.replace("|", "=") + self._code)
            if self._numpy.itemsize == 0:
                raise ValueError("texts without a width are not read")
        return self._numpy


class PickledArray:
    """An array as the pickle gives it: numbers or text of one width, or a list of what Python holds."""

    __slots__ = ("_dtype", "_fortran", "_items", "_payload", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self._dtype: np.dtype[Any] = np.dtype(np.float64)
        self._fortran = False
        self._payload: bytes | Stretch = b""
        self._items: list[Any] | None = None

    def set_state(self, state: Any) -> None:
        """Take what the pickle says about an array: (version, shape, data type, whether by columns, content)."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], PickledDtype):
            raise ValueError("an array is not described as numpy does")
        self.fill(state[4], state[2], state[1], bool(state[3]))

    def fill(self, content: Any, dtype: PickledDtype, shape: Any, fortran: bool) -> None:
        """Take shape and content, which must be as long as the shape says."""
        sound = isinstance(shape, tuple) and len(shape) <= _MAX_DIMENSIONS
        if not sound or not all(type(extent) is int and extent >= 0 for extent in shape):
            raise ValueError("an array has no shape")
        # Extents beside a 0 count too: numpy refuses their product.
        if math.prod(extent or 1 for extent in shape) > _MAX_ELEMENTS:
            raise ValueError(f"an array has the shape {list(shape)}")
        self.shape = shape
        self._fortran = fortran
        count = math.prod(shape)
        if dtype.holds_objects:
            if not isinstance(content, list) or len(content) != count or (fortran and len(shape) > 1):
                raise ValueError(f"an array of objects does not hold the {count} that its shape says")
            self._items = content
            return
        self._dtype = dtype.numpy()
        self._payload = content if isinstance(content, Stretch) else as_bytes(content)
        size = self._payload.size if isinstance(self._payload, Stretch) else len(self._payload)
        if size != count * self._dtype.itemsize:
            wanted = count * self._dtype.itemsize
            raise ValueError(f"an array {list(shape)} of {self._dtype} takes {wanted} bytes, {size} are there")

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def dtype(self) -> str:
        """What it holds, for errors."""
        return "Python objects" if self._items is not None else str(self._dtype)

    @property
    def kind(self) -> str:
        """The letter of numpy for the kind of its data type."""
        return "O" if self._items is not None else self._dtype.kind

    @property
    def items(self) -> list[Any] | None:
        """The Python objects of the array, rows first; None where it holds numbers or text of one width."""
        return self._items

    def row(self, number: int) -> Array:
        """[...] the entry `number` of the first dimension; read from the file alone where its bytes are in one run.

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
        data = payload.read(start, start + size) if isinstance(payload, Stretch) else payload[start : start + size]
        return np.frombuffer(data, self._dtype).reshape(shape)

    def load(self) -> Array:
        """The whole array; one that is stored by columns is kept in memory from then on.

        Raises:
            ValueError: The array holds Python objects.
        """
        if self._items is not None:
            raise ValueError("an array of objects is not one of numbers")
        data = self._payload.read(0, self._payload.size) if isinstance(self._payload, Stretch) else self._payload
        if self._fortran:
            self._payload = data
        flat: npt.NDArray[Any] = np.frombuffer(data, self._dtype)
        npy.check_unicode(flat)
        return flat.reshape(self.shape, order="F" if self._fortran else "C")


def scalar(dtype: PickledDtype, content: Any) -> Any:
    """A single value of numpy; text and whole numbers as Python's, since they may be keys of a dictionary."""
    array = PickledArray()
    array.fill(content, dtype, (), fortran=False)
    value = array.load()[()]
    return value.item() if array.load().dtype.kind in "iubSU" else value


def as_bytes(content: Any) -> bytes:
    """Bytes, also where Python 2 wrote them as text of one byte a character."""
    if isinstance(content, str):
        return content.encode("latin-1")
    if not isinstance(content, bytes):
        raise ValueError("the content of an array is not bytes")
    return content


def as_numbers(values: Any) -> Array:
    """[n] a list of single numbers.

    Raises:
        ValueError: It holds something else; lists in a list are not followed, since they can share their parts and
            then stand for more than there is memory.
    """
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, int | float | np.floating) for value in values
    ):
        raise ValueError("not a list of numbers")
    return np.array(values)


def as_rows(values: Any, width: int | None = None) -> Array:
    """[n, D] an array, or a list of arrays or of lists of numbers of one width.

    Args:
        values: An empty list gives [0, D].
        width: D; None: that of the first row.

    Raises:
        ValueError: It is something else, or not of the width.
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
        raise ValueError(f"{repeated} of {len(values)} steps of {width} features are the same row again")
    vectors = [_vector(row) for row in values]
    if any(len(vector) != width for vector in vectors):
        raise ValueError(f"the steps are not of {width} features each")
    return np.stack(vectors)


def _vector(row: Any) -> Array:
    if isinstance(row, list | tuple):
        return as_numbers(row)
    vector = row.load() if isinstance(row, PickledArray) else None
    if vector is None or vector.ndim != 1 or vector.dtype.kind not in "fiub":
        raise ValueError("a step is not a list of numbers")
    return vector


def as_texts(values: Any, text: Callable[[Any], str] = as_text) -> list[str]:
    """A list, tuple or array of texts, bytes or numbers as texts, rows first.

    Args:
        values: The list.
        text: Makes each a text; `as_spoken` for transcripts, of which some may be missing.

    Raises:
        ValueError: It holds something else; says at which place.
    """
    if isinstance(values, PickledArray):
        values = values.load().reshape(-1).tolist() if values.items is None else values.items
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ValueError("not a list of texts")
    found = []
    for value in values:
        try:
            found.append(text(value))
        except ValueError as error:
            raise BadEntryError(len(found), str(error)) from None
    return found


class BadEntryError(ValueError):
    """One entry of a list cannot be.

    Args:
        number: Its place in the list.
        what: Why.
    """

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"{what} (entry {number} of the list)")
        self.number = number
        self.what = what
