"""Strict decoder: plain dictionaries (JSON, YAML) to dataclasses; errors contain the path of the offending value.

Everything that is not declared is refused: unknown and missing keys, a bool for a number, a float for an int, NaN and
infinity unless the field is an `AnyFloat`. Types that fields may have: dataclasses, `str`, `int`, `float`, `bool`,
`Any`, `Literal`, unions and `Optional`, `list`, `tuple`, `Sequence`, and `dict` and `Mapping` with `str` keys.

    decode(Manifest, json_value)    # raises DecodeError: `shards[3].samples: "7" is not a whole number`
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from keyword import iskeyword
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from ivr_dist.sanitize import shorten

T = TypeVar("T")

_NON_FINITE = "NaN and infinity allowed"
AnyFloat = Annotated[float, _NON_FINITE]
"""The type of a field that may hold NaN or an infinity."""

_LONGEST = 200
"""Characters of a value in an error."""
_LONGEST_NUMBER = 40
_LISTS = (list, tuple, Sequence)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", type(None): "null"}
_PLURALS = {int: "whole numbers", float: "numbers", bool: "true or false values", str: "strings", type(None): "nulls"}


class Words(str):
    """Mark of an annotated type: its name in errors, with its article, such as `Annotated[str, Words("a URL")]`."""


class DecodeError(ValueError):
    """A value that does not fit its declared type.

    Args:
        what: The fault, without the path.
        keys: Path from the top: keys and list indices.
        reason: `unknown` and `missing` are about the key that `keys` ends with, `value` about its value.
        choices: Valid choices: the known keys, or the values of a `Literal`.
    """

    def __init__(
        self,
        what: str,
        keys: tuple[str | int, ...] = (),
        reason: Literal["unknown", "missing", "value"] = "value",
        choices: Sequence[Any] = (),
    ) -> None:
        super().__init__(what, keys, reason, choices)
        self.what = what
        self.keys = keys
        self.reason = reason
        self.choices = choices

    @property
    def path(self) -> str:
        """The path as `shards[3].index.name`; empty for the whole value."""
        text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.keys)
        return text.removeprefix(".")

    def __str__(self) -> str:
        """Render the path and the fault."""
        if self.reason == "unknown":
            return f"unknown key {self.path}"
        if self.reason == "missing":
            return f"key {self.path} is missing"
        return f"{self.path}: {self.what}" if self.keys else self.what

    def below(self, key: str | int) -> DecodeError:
        """Return this error with `key` prepended to its path."""
        return DecodeError(self.what, (key, *self.keys), self.reason, self.choices)


def show(value: Any, scalar: Callable[[Any], str] = repr) -> str:
    """Format a value as a user may have typed it, for error texts; a long one is shortened.

    Args:
        value: Any plain value.
        scalar: Formats values that are not null, a bool, a list or a mapping.
    """
    return shorten(_typed(value, scalar), _LONGEST)


def _typed(value: Any, scalar: Callable[[Any], str]) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_typed(item, scalar) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_typed(item, scalar)}' for name, item in value.items())}}}"
    return scalar(value)


def describe_type(hint: Any) -> str:
    """Describe a type in words, with the allowed values of a choice: `a number, or null`, `one of a, b`."""
    for mark in hint.__metadata__ if get_origin(hint) is Annotated else ():
        if isinstance(mark, Words):
            return mark
    origin, args = _parts(hint)
    if origin is Literal:
        return f"one of {', '.join(str(arg) for arg in args)}"
    if origin is Union:
        names = " or ".join(describe_type(arg) for arg in args if arg is not type(None))
        return f"{names}, or null" if type(None) in args else names
    if origin in _LISTS:
        return f"a list of {_plural(args[0])}"
    if origin in (dict, Mapping) and args[1] is not Any:
        return f"a mapping of names to {_plural(args[1])}"
    return _WORDS.get(origin, "a mapping")


def _plural(hint: Any) -> str:
    origin, args = _parts(hint)
    if isinstance(words := describe_type(hint), Words):
        return f"entries, each {words}"
    if origin is Literal:
        return f"any {describe_type(hint)[4:]}"
    if origin in _LISTS:
        return f"lists of {_plural(args[0])}"
    if origin is Union:
        return " or ".join(_plural(arg) for arg in args)
    return _PLURALS.get(origin, "mappings")


@dataclass(frozen=True)
class Decoder:
    """Decodes the values of one kind of source.

    The fields adapt it to sources whose scalars are not yet typed, such as plain words of a YAML file.
    """

    read: Callable[[Any, Any], Any] | None = None
    """Converts a value of the source to its declared type; raises ValueError."""
    show: Callable[[Any], str] = show
    """Formats a value for error texts."""
    floats: bool = False
    """Whether an int for a float field is converted; otherwise numbers keep their type."""
    complete: bool = False
    """Whether every field is required, also those with a default: for records written and read by one version."""

    def decode(self, kind: type[T], value: Any) -> T:
        """Build a dataclass, or a value of another type, from plain values.

        Args:
            kind: The dataclass, or any other type that a field may have.
            value: The parsed value.

        Raises:
            DecodeError: The value does not fit; the first fault found.
        """
        result: T = self._value(kind, value)
        return result

    def _value(self, hint: Any, value: Any) -> Any:
        origin, args = _parts(hint)
        if origin is Union:
            return self._union(hint, args, value)
        if is_dataclass(origin):
            return self._record(typing.cast(type, origin), value)
        if origin in _LISTS:
            return self._list(hint, origin, args, value)
        if origin in (dict, Mapping):
            if not isinstance(value, Mapping):
                raise self._mismatch(hint, value)
            return {str(name): self._at(name, args[1], item) for name, item in value.items()}
        if origin is Any:
            return self._untyped(value)
        return self._scalar(hint, origin, args, value)

    def _at(self, key: str | int, hint: Any, value: Any) -> Any:
        try:
            return self._value(hint, value)
        except DecodeError as error:
            raise error.below(key) from None

    def _record(self, kind: type, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise self._mismatch(kind, value)
        hints, required = _declared(kind)
        required = list(hints) if self.complete else required
        for name in value:
            if name not in hints:
                raise DecodeError("unknown key", (name,), "unknown", tuple(hints))
        arguments = {name: self._at(name, hints[name], item) for name, item in value.items()}
        for name in required:
            if name not in arguments:
                raise DecodeError("missing key", (name,), "missing")
        try:
            return kind(**{f"{name}_" if iskeyword(name) else name: item for name, item in arguments.items()})
        except ValueError as error:
            # A dataclass may check its own values.
            raise DecodeError(str(error)) from error

    def _list(self, hint: Any, origin: Any, args: tuple[Any, ...], value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise self._mismatch(hint, value)
        items = [self._at(position, args[0], item) for position, item in enumerate(value)]
        return tuple(items) if origin is tuple else items

    def _union(self, hint: Any, args: tuple[Any, ...], value: Any) -> Any:
        options = [arg for arg in args if arg is not type(None)]
        if len(options) < len(args) and self._plain(value, hint) is None:
            return None
        fitting = [option for option in options if _is_like(option, value)]
        fault = None
        for option in fitting:
            try:
                return self._value(option, value)
            except DecodeError as error:
                fault = error
        # The error inside a list or a mapping is more specific than that of the whole.
        if fault is not None and len(fitting) == 1 and (fault.keys or len(options) == 1):
            raise fault
        raise self._mismatch(options[0] if len(options) == 1 else hint, value)

    def _scalar(self, hint: Any, origin: Any, args: tuple[Any, ...], value: Any) -> Any:
        plain = self._plain(value, hint)
        if origin is Literal:
            for choice in args:
                # Compared with their types, since True == 1.
                if type(plain) is type(choice) and plain == choice:
                    return choice
        elif origin is float and type(plain) in (int, float):
            # A whole number may have any number of digits.
            if not abs(plain) <= sys.float_info.max and _NON_FINITE not in args:
                raise DecodeError(f"{shorten(self.show(value), _LONGEST_NUMBER)} is not a finite number")
            return float(plain) if self.floats else plain
        elif type(plain) is origin or (origin is str and isinstance(plain, str)):
            return plain
        raise self._mismatch(hint, value)

    def _untyped(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): self._untyped(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._untyped(item) for item in value]
        return self._plain(value, Any)

    def _plain(self, value: Any, hint: Any) -> Any:
        if self.read is None:
            return value
        try:
            return self.read(value, hint)
        except ValueError as error:
            raise DecodeError(str(error)) from None

    def _mismatch(self, hint: Any, value: Any) -> DecodeError:
        origin, args = _parts(hint)
        choices = args if origin is Literal else ()
        return DecodeError(f"{self.show(value)} is not {describe_type(hint)}", choices=choices)


_JSON = Decoder()
_COMPLETE_JSON = Decoder(complete=True)


def decode(kind: type[T], value: Any, *, complete: bool = False) -> T:
    """Build a dataclass from a JSON value; see `Decoder`."""
    return (_COMPLETE_JSON if complete else _JSON).decode(kind, value)


@cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split a type hint into origin and arguments; for an annotated number, its marks."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return (args[0], args[1:]) if args[0] is float else _parts(args[0])
    if origin is types.UnionType:
        return Union, args
    return (hint, ()) if origin is None else (origin, args)


@cache
def _declared(kind: type) -> tuple[dict[str, Any], list[str]]:
    """Return the field types of a dataclass by key, and the keys of the fields without a default.

    The key of a field that is named after a Python keyword with an underscore, such as `from_`, is the keyword.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    by_key = {_key(item.name): item for item in fields(kind) if item.init}
    required = [k for k, item in by_key.items() if item.default is MISSING and item.default_factory is MISSING]
    return {key: hints[item.name] for key, item in by_key.items()}, required


def _key(field_name: str) -> str:
    stem = field_name.removesuffix("_")
    return stem if iskeyword(stem) else field_name


def _is_like(hint: Any, value: Any) -> bool:
    """Whether a value may belong to this member of a union, by its shape."""
    origin, _ = _parts(hint)
    if isinstance(value, Mapping):
        return origin in (dict, Mapping, Any) or is_dataclass(origin)
    if isinstance(value, list | tuple):
        return origin in (*_LISTS, Any)
    return origin not in (*_LISTS, dict, Mapping) and not is_dataclass(origin)
