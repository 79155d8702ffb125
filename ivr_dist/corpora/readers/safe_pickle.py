"""Safe unpickling: reads pickles of numbers and text without executing any code that they name.

A pickle is a program for a stack machine, and Python's machine calls any function that the program names. This machine
has an allowlist, `_ALLOWED`: numpy's arrays, data types and scalars, bytes, and plain containers (sets and frozen sets
become lists, in the order of the file). It has no instruction that creates an object of a class. The result is never
larger than the file. Long bytes stay in the file, as lazy arrays that are read a row at a time (`PickledArray`), so
opening a pickle of many gigabytes takes only as long as reading its names.
"""

from __future__ import annotations

import ast
import io
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from ivr_dist import storage
from ivr_dist.common.file_signatures import HEAD
from ivr_dist.common.library_errors import describe
from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.files import open_source_file, refuse_other
from ivr_dist.corpora.readers.pickle_arrays import (
    FileRange,
    InMemory,
    PickledArray,
    PickledDtype,
    RangeSource,
    as_bytes,
    scalar,
)
from ivr_dist.corpora.readers.texts import OldText
from ivr_dist.errors import DataError

_LEFT_IN_FILE = 1 << 16
"""Bytes from which on a value stays in the file; Python's pickler writes such values outside of its frames as well."""
_MAX_LINE = 1 << 20
_MAX_INTEGER = 32
"""Maximum bytes of an integer; numpy's have at most 8."""
_MAX_NAME = 120
_BROKEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""Errors caused by damaged pickles."""


class _Refused(Exception):
    """The pickle names something that is not allowed."""


class _Allowed:
    """An allowed name: the function to call with the pickle's arguments."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


def load_pickle(root: str, file: SourceFile) -> Any:
    """Read a pickle of the corpus, of any protocol, also of Python 2.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: Its entry in the card.

    Returns:
        Dictionaries, lists, tuples, text, bytes, numbers, and `PickledArray` for numpy's arrays.

    Raises:
        DataError: It is missing, has another checksum, is not a pickle, or names a class or function that is not one of
            numpy's arrays or a plain container.
    """
    url = storage.join(root, file.path)
    with open_source_file(root, file) as stream:
        refuse_other(stream.read(HEAD), "a pickle", storage.display(url), "a pickle")
        stream.seek(0)
        return _run(_Machine(stream, storage.RangeReader(url), storage.size(url)), stream, storage.display(url))


def parse_pickle(data: bytes, where: str) -> Any:
    """Read a pickle in memory, such as that of an object array in an .npz file; otherwise like `load_pickle`.

    Args:
        data: The pickle.
        where: Its name, for errors.

    Raises:
        DataError: As for `load_pickle`.
    """
    stream = io.BytesIO(data)
    return _run(_Machine(stream, InMemory(data), len(data)), stream, where)


def _run(machine: _Machine, stream: BinaryIO, where: str) -> Any:
    try:
        return machine.run()
    except _Refused as refusal:
        raise DataError(
            str(refusal),
            where=where,
            remedy="do not load it with other programs unless you trust it; convert it where it was made",
        ) from None
    except _BROKEN as error:
        where = f"{where}, byte {stream.tell()}"
        raise DataError(f"not a pickle that can be read: {describe(error)}", where=where) from None


def _array(kind: Any, shape: Any, code: Any) -> PickledArray:
    """Create an empty array, which numpy's pickles fill later."""
    return PickledArray()


def _dtype(code: str, align: Any = False, copy: Any = True) -> PickledDtype:
    return PickledDtype(code)


def _from_buffer(content: Any, dtype: PickledDtype, shape: Any, order: str) -> PickledArray:
    array = PickledArray()
    array.fill(content, dtype, shape, order == "F")
    return array


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Decode bytes as Python 3 writes them in the old protocols."""
    return text.encode({"latin1": "latin-1", "latin-1": "latin-1"}[encoding])


def _bytes(content: Any = b"", encoding: str = "latin1") -> bytes | FileRange:
    return content if isinstance(content, FileRange) else as_bytes(content)


def _items(items: Any = ()) -> Any:
    # Without a copy: a file could request copies of one long list over and over.
    return _container(items, (list, tuple)) or []


def _empty_dict() -> dict[Any, Any]:
    return {}


_ALLOWED: dict[tuple[str, str], _Allowed] = {
    ("numpy", "ndarray"): _Allowed(_array),
    ("numpy", "dtype"): _Allowed(_dtype),
    ("_codecs", "encode"): _Allowed(_encode),
    ("collections", "OrderedDict"): _Allowed(_empty_dict),
    **{
        (f"{package}.{name}", function): _Allowed(call)
        # numpy 2 renamed numpy.core, and there are files of both.
        for package in ("numpy.core", "numpy._core")
        for name, function, call in (
            ("multiarray", "_reconstruct", _array),
            ("multiarray", "scalar", scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    **{
        (module, name): _Allowed(call)
        for module in ("builtins", "__builtin__")
        for name, call in (
            ("bytes", _bytes),
            ("bytearray", _bytes),
            ("list", _items),
            ("set", _items),
            ("frozenset", _items),
        )
    },
}


def _old_text(content: bytes) -> str:
    text = content.decode("latin-1")
    return text if content.isascii() else OldText(text)


def _find(module: str, name: str) -> _Allowed:
    allowed = _ALLOWED.get((module, name))
    if allowed is None:
        full = f"{module}.{name}"[:_MAX_NAME].encode("ascii", "backslashreplace").decode()
        raise _Refused(f"the pickle names {full}, which is neither a numpy array nor a plain container; not loaded")
    return allowed


def _key(key: Any) -> Any:
    # A tuple nested a million times overflows the C stack when it is hashed.
    if not isinstance(key, str | int | float | bytes):
        raise ValueError("a key of a dictionary is neither text nor a number")
    return key


def _container(value: Any, kinds: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kinds):
        raise ValueError("a value is added to something that is not a container")
    return value


# decision 028
class _Machine:
    """The stack machine, for one pickle."""

    def __init__(self, stream: BinaryIO, file: RangeSource, size: int) -> None:
        self._stream = stream
        self._file = file
        self._size = size
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self) -> Any:
        read, instructions = self._stream.read, _INSTRUCTIONS
        while (code := read(1)) != b".":
            action = instructions.get(code)
            if action is None:
                raise ValueError(f"unknown instruction {code!r}" if code else "it is cut off")
            action(self)
        return self._pop()

    def _pop(self) -> Any:
        return self._stack.pop()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    # Reading

    def take(self, size: int) -> bytes:
        data = self._stream.read(size) if size <= self._size else b""
        if len(data) < size:
            raise ValueError("it is cut off")
        return data

    def number(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def line(self) -> bytes:
        line = self._stream.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise ValueError("a line is cut off or too long")
        return line[:-1].removesuffix(b"\r")

    def content(self, size: int) -> bytes | FileRange:
        """Read bytes of the file, or only their range if they are many."""
        if size < _LEFT_IN_FILE:
            return self.take(size)
        start = self._stream.tell()
        if start + size > self._size:
            raise ValueError("it is cut off")
        self._stream.seek(start + size)
        return FileRange(self._file, start, size)

    # Stack and memo

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def marked(self) -> list[Any]:
        items = self._stack
        self._stack = self._marked.pop()
        return items

    def pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.marked()

    def put(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, number: int) -> None:
        if number not in self._memo:
            raise ValueError(f"it refers to entry {number} of its memo, which does not exist")
        self.push(self._memo[number])

    # Containers

    def tuple_of(self, count: int) -> None:
        items = self._stack[len(self._stack) - count :]
        if len(items) < count:
            raise IndexError("the stack is empty")
        self._stack[len(self._stack) - count :] = [tuple(items)]

    def append(self, *items: Any) -> None:
        _container(self._stack[-1], list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = _container(self._stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def dict_of(self, items: list[Any]) -> None:
        self.push({})
        self.set_items(items)

    # Names

    def find(self, module: Any, name: Any) -> None:
        self.push(_find(str(module), str(name)))

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self.find(module, name)

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Allowed):
            raise _Refused("the pickle calls something that is not an allowed name; not loaded")
        self._count_copies(_container(arguments, tuple))
        self.push(function.call(*arguments))

    def build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if not isinstance(target, PickledArray | PickledDtype):
            raise _Refused("the pickle changes the state of something that is not an array; not loaded")
        self._count_copies(_container(state, tuple))
        target.set_state(state)

    def _count_copies(self, values: tuple[Any, ...]) -> None:
        """Limit the text and bytes passed to functions, which may copy them; a valid file passes each only once.

        Bytes that stay in the file count as well, because scalars and arrays in Fortran order copy them.
        """
        self._copied += sum(
            value.size if isinstance(value, FileRange) else len(value)
            for value in values
            if isinstance(value, str | bytes | FileRange)
        )
        if self._copied > 2 * self._size:
            raise ValueError("it copies its text more often than a valid file")

    def instance(self) -> None:
        """Refuse an object of an old-style class, by its name."""
        self.find(self.line().decode(), self.line().decode())
        raise _Refused("the pickle creates objects of old-style classes; not loaded")

    def refuse(self) -> None:
        raise _Refused("the pickle creates an object of a class, or refers to one outside of the file; not loaded")

    # Numbers and text

    def text(self, size: int) -> str:
        return self.take(size).decode("utf-8", "surrogatepass")

    def old_text(self, size: int) -> str | FileRange:
        """Read a text of Python 2, which may be the bytes of an array."""
        content = self.content(size)
        return content if isinstance(content, FileRange) else _old_text(content)

    def integer(self, size: int) -> int:
        if size > _MAX_INTEGER:
            raise ValueError(f"an integer of {size} bytes")
        return self.number(size, signed=True)

    def written_integer(self) -> int | bool:
        line = self.line().removesuffix(b"L")
        if line in (b"00", b"01"):
            return line == b"01"
        if len(line) > 3 * _MAX_INTEGER:
            raise ValueError("an integer of many digits")
        return int(line)

    def written_text(self) -> str:
        # A string literal of Python 2; as bytes, so that escapes mean single bytes.
        value = ast.literal_eval("b" + self.line().decode("ascii"))
        return _old_text(bytes(value))

    def real(self) -> float:
        return float(struct.unpack(">d", self.take(8))[0])

    def written_real(self) -> float:
        return float(self.line())


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
    b"(": _Machine.mark,
    b"0": _Machine.pop,
    b"1": _Machine.marked,
    b"2": lambda m: m.push(m._stack[-1]),
    b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"p": lambda m: m.put(int(m.line())),
    b"\x94": _Machine.memoize,
    b"h": lambda m: m.get(m.number(1)),
    b"j": lambda m: m.get(m.number(4)),
    b"g": lambda m: m.get(int(m.line())),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number(4, signed=True)),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"I": lambda m: m.push(m.written_integer()),
    b"L": lambda m: m.push(m.written_integer()),
    b"\x8a": lambda m: m.push(m.integer(m.number(1))),
    b"\x8b": lambda m: m.push(m.integer(m.number(4))),
    b"G": lambda m: m.push(m.real()),
    b"F": lambda m: m.push(m.written_real()),
    b"X": lambda m: m.push(m.text(m.number(4))),
    b"\x8c": lambda m: m.push(m.text(m.number(1))),
    b"\x8d": lambda m: m.push(m.text(m.number(8))),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"B": lambda m: m.push(m.content(m.number(4))),
    b"C": lambda m: m.push(m.content(m.number(1))),
    b"\x8e": lambda m: m.push(m.content(m.number(8))),
    b"\x96": lambda m: m.push(m.content(m.number(8))),
    b"T": lambda m: m.push(m.old_text(m.number(4))),
    b"U": lambda m: m.push(m.old_text(m.number(1))),
    b"S": lambda m: m.push(m.written_text()),
    b"]": lambda m: m.push([]),
    b"\x8f": lambda m: m.push([]),
    b"l": lambda m: m.push(m.marked()),
    b"\x91": lambda m: m.push(m.marked()),
    b"a": lambda m: m.append(m._pop()),
    b"e": lambda m: m.append(*m.marked()),
    b"\x90": lambda m: m.append(*m.marked()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.marked())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"}": lambda m: m.push({}),
    b"d": lambda m: m.dict_of(m.marked()),
    b"s": lambda m: m.set_items([m._pop(), m._pop()][::-1]),
    b"u": lambda m: m.set_items(m.marked()),
    b"c": lambda m: m.find(m.line().decode(), m.line().decode()),
    b"\x93": _Machine.stack_global,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"i": _Machine.instance,
    **dict.fromkeys((b"o", b"\x81", b"\x92", b"P", b"Q", b"\x82", b"\x83", b"\x84", b"\x97", b"\x98"), _Machine.refuse),
}
"""Actions by opcode. An instruction whose arguments are missing on the stack fails with IndexError."""
