"""The keys of `config.py` as data, and strict conversion of values to their types.

Plain YAML scalars arrive here as text (`Word`) because only the key's type can tell what they mean: PyYAML follows YAML
1.1, where `1e-4` is a string, `010` is 8, `1:30` is 90 and `no` is false.
"""

from __future__ import annotations

import functools
import math
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, Union

from ivr_dist.config.schema import Config
from ivr_dist.sanitize import shorten

_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_FLOAT = re.compile(r"[-+]?([0-9]+(_[0-9]+)*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": math.inf, "-.inf": -math.inf, "+.inf": math.inf, ".nan": math.nan}
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_MAX_DIGITS = 4000
"""Of a whole number; Python refuses a little more."""
_LONGEST = 200
"""Characters of a value in an error."""
_NULLS = ("", "~", "null")


class Word(str):
    """A scalar written without quotes, whose meaning depends on the type that is asked for."""

    written: str = ""
    """All that was written, where more was than YAML reads and it may have been meant: with what looks like a comment,
    or with blanks around it."""

    def resolve(self) -> Any:
        """What it says where no type is asked for: null, bool, int, float or text."""
        text = self.lower()
        if text in _NULLS:
            return None
        if text in _BOOLS:
            return _BOOLS[text]
        if text in _SPECIAL:
            return _SPECIAL[text]
        if _INT.fullmatch(self):
            if len(self) > _MAX_DIGITS:
                raise ValueError(f"a number of {len(self)} digits is too long")
            return int(self)
        if _FLOAT.fullmatch(self):
            return float(self)
        return str(self)


@dataclass(frozen=True)
class Key:
    """One key of the config."""

    path: str
    """Dotted, such as `train.lr`."""
    annotation: Any
    """Its resolved type."""
    doc: str
    default: Any

    @property
    def type_name(self) -> str:
        """Its type for people: `number`, `true or false`, `one of a, b` ..."""
        return describe_type(self.annotation)


@functools.cache
def section_fields(kind: type) -> dict[str, tuple[Any, str]]:
    """Annotation and doc line of each field of a section, in order."""
    hints = typing.get_type_hints(kind)
    return {item.name: (hints[item.name], str(item.metadata["doc"])) for item in fields(kind)}


@functools.cache
def keys() -> dict[str, Key]:
    """Every key that is not a section, by dotted path, in the order of `config.py`."""
    found: dict[str, Key] = {}

    def visit(kind: type, prefix: str) -> None:
        for item in fields(kind):
            annotation, doc = section_fields(kind)[item.name]
            path = f"{prefix}{item.name}"
            if is_dataclass(annotation):
                visit(typing.cast(type, annotation), f"{path}.")
            else:
                default = item.default if item.default_factory is MISSING else item.default_factory()
                found[path] = Key(path, annotation, doc, default)

    visit(Config, "")
    return found


def value_of(config: Config, path: str) -> Any:
    """The value of a key, by its dotted path."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


@functools.cache
def section_paths() -> frozenset[str]:
    """Dotted paths of all sections."""
    return frozenset(path.rsplit(".", i)[0] for path in keys() for i in range(1, path.count(".") + 1))


def describe_type(annotation: Any) -> str:
    """A type in words, with the allowed values of a choice."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(str(arg) for arg in args)}"
    if origin in (Union, types.UnionType):
        named = " or ".join(describe_type(arg) for arg in args if arg is not type(None))
        return f"{named}, or null" if type(None) in args else named
    if origin is list:
        inner = describe_type(args[0])
        return f"a list of any {inner[4:]}" if inner.startswith("one of") else f"a list of {inner[2:]}s"
    if origin is dict:
        return "a mapping" if args[1] is Any else f"a mapping of names to {describe_type(args[1])[2:]}s"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[annotation]


def convert(value: Any, annotation: Any) -> Any:
    """Check a value against a type, strictly, and return it as that type.

    An int is accepted for a float, never a bool for a number; a plain `Word` is read as the type asks.

    Raises:
        ValueError: The value does not fit; its text says what was expected, without the key's name.
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return _untyped(value)
    if origin in (Union, types.UnionType):
        return _one_of(value, annotation)
    if origin is Literal:
        return _choice(value, annotation)
    if origin is list:
        if not isinstance(value, list):
            raise _mismatch(value, annotation)
        return [convert(item, args[0]) for item in value]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _mismatch(value, annotation)
        return {str(name): convert(item, args[1]) for name, item in value.items()}
    return _scalar(value, annotation)


def _one_of(value: Any, annotation: Any) -> Any:
    """A value of a union: null, a list, or the one other type there is."""
    args = typing.get_args(annotation)
    if type(None) in args and _resolved(value) is None:
        return None
    lists = [arg for arg in args if typing.get_origin(arg) is list]
    others = [arg for arg in args if arg not in lists and arg is not type(None)]
    if isinstance(value, list) and lists:
        return convert(value, lists[0])
    if lists and type(_resolved(value)) is not others[0]:
        raise _mismatch(value, annotation)
    return convert(value, others[0])


def _scalar(value: Any, annotation: type) -> Any:
    if annotation is str:
        if isinstance(value, Word):
            if value.written:
                raise ValueError(f"{value.written!r} would be read as {str(value)!r}")
            # Words that YAML 1.1 takes for booleans are text here; an empty value is the empty string.
            plain = value == "" or value.lower() in _BOOLS.keys() - {"true", "false"}
            if not plain and not isinstance(value.resolve(), str):
                raise _mismatch(value, annotation)
            value = str(value)
        if not isinstance(value, str):
            raise _mismatch(value, annotation)
        return value
    resolved = _resolved(value)
    if annotation is float and type(resolved) in (int, float):
        # Whole numbers may have any number of digits.
        if not abs(resolved) <= sys.float_info.max:
            raise ValueError(f"{value:.40} is not a finite number" if isinstance(value, str) else "not a finite number")
        return float(resolved)
    if annotation in (int, bool) and type(resolved) is annotation:
        return resolved
    raise _mismatch(value, annotation)


def _choice(value: Any, annotation: Any) -> Any:
    allowed = typing.get_args(annotation)
    textual = all(isinstance(choice, str) for choice in allowed)
    found = str(value) if textual and isinstance(value, str) else _resolved(value)
    for choice in allowed:
        # Compared with their types, since True == 1.
        if type(found) is type(choice) and found == choice:
            return choice
    raise _mismatch(value, annotation)


def _untyped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _untyped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_untyped(item) for item in value]
    return _resolved(value)


def _resolved(value: Any) -> Any:
    return value.resolve() if isinstance(value, Word) else value


def _mismatch(value: Any, annotation: Any) -> ValueError:
    return ValueError(f"{show(value)} is not {describe_type(annotation)}")


def show(value: Any) -> str:
    """A value as the user may have typed it, for an error's text; a long one is shortened."""
    return shorten(_typed(value), _LONGEST)


def _typed(value: Any) -> str:
    if isinstance(value, Word):
        return "empty" if value == "" else repr(str(value)) if isinstance(value.resolve(), str) else str(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_typed(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_typed(item)}' for name, item in value.items())}}}"
    return repr(value)
