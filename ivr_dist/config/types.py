"""The keys of `schema` as data, and strict conversion of values to their types.

Plain YAML scalars arrive as text (`Word`), since their meaning depends on the type of their key: PyYAML follows YAML
1.1, where `1e-4` is a string, `010` is 8, `1:30` is 90 and `no` is false.
"""

from __future__ import annotations

import functools
import keyword
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

from ivr_dist.common import decoder
from ivr_dist.common.decoder import Decoder
from ivr_dist.config.declaration import Range, key_name
from ivr_dist.config.schema import Config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ENTRY = "NAME"
"""Stands for the name of an entry in the path of its keys."""
_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_FLOAT = re.compile(r"[-+]?([0-9]+(_[0-9]+)*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": math.inf, "-.inf": -math.inf, "+.inf": math.inf, ".nan": math.nan}
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_MAX_DIGITS = 4000
"""Most digits of a whole number; just below the limit of Python."""
_NULLS = ("", "~", "null")


class Word(str):
    """An unquoted scalar, whose meaning depends on the type it is converted to."""

    written: str = ""
    """The full text where YAML drops a part that may be intended: an apparent comment, or surrounding blanks."""

    def resolve(self) -> Any:
        """Resolve it without a type: null, bool, int, float or text."""
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
    range: Range | None = None
    """Bounds of the number, or of each number in it."""

    @property
    def type_name(self) -> str:
        """Its type in words: `a number`, `true or false`, `one of a, b` ..."""
        return decoder.describe_type(self.annotation)


@functools.cache
def section_fields(kind: type) -> dict[str, tuple[Any, str]]:
    """Annotation and doc line of each field of a section, in order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {item.name: (hints[item.name], str(item.metadata["doc"])) for item in fields(kind)}


@functools.cache
def keys() -> dict[str, Key]:
    """Every key that is not a section, by dotted path, in the order of `schema`."""
    by_path: dict[str, Key] = {}

    def visit(kind: type, prefix: str) -> None:
        for item in fields(kind):
            annotation, doc = section_fields(kind)[item.name]
            path = f"{prefix}{key_name(item.name)}"
            if is_dataclass(annotation):
                visit(typing.cast(type, annotation), f"{path}.")
            else:
                default = item.default if item.default_factory is MISSING else item.default_factory()
                by_path[path] = Key(path, annotation, doc, default, item.metadata["range"])

    visit(Config, "")
    return by_path


@functools.cache
def entry_keys() -> dict[str, Key]:
    """The keys of the entries of mappings of sections, with NAME for the entry: `data.corpora.NAME.share`."""
    by_path: dict[str, Key] = {}
    for mapping in keys().values():
        kind = entry_kind(mapping.annotation)
        if kind is None:
            continue
        for item in fields(kind):
            annotation, doc = section_fields(kind)[item.name]
            path = f"{mapping.path}.{ENTRY}.{key_name(item.name)}"
            default = item.default if item.default_factory is MISSING else item.default_factory()
            by_path[path] = Key(path, annotation, doc, default, item.metadata["range"])
    return by_path


def entry_kind(annotation: Any) -> type[DataclassInstance] | None:
    """The section of each entry, if a key is a mapping of sections."""
    if typing.get_origin(annotation) is not dict:
        return None
    options = typing.get_args(typing.get_args(annotation)[1]) or typing.get_args(annotation)[1:]
    return next((option for option in options if isinstance(option, type) and is_dataclass(option)), None)


def value_of(config: Config, path: str) -> Any:
    """The value of the key at a dotted path; also of an entry of a mapping, such as `data.corpora.mosi.share`."""
    value: Any = config
    for name in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(name)
        elif value is not None:
            value = getattr(value, f"{name}_" if keyword.iskeyword(name) else name)
    return value


@functools.cache
def section_paths() -> frozenset[str]:
    """Dotted paths of all sections."""
    return frozenset(path.rsplit(".", i)[0] for path in keys() for i in range(1, path.count(".") + 1))


def convert(value: Any, annotation: Any) -> Any:
    """Check a value against a type, strictly, and return it as that type.

    An int is accepted for a float, never a bool for a number; a plain `Word` is parsed as the type requires.

    Raises:
        DecodeError: The value does not fit; the text states what was expected, without the key's name.
    """
    return DECODER.decode(annotation, value)


def _read(value: Any, annotation: Any) -> Any:
    """Convert a `Word` to its declared type; return any other value unchanged.

    Raises:
        ValueError: YAML would drop a part of the text.
    """
    if not isinstance(value, Word):
        return value
    if annotation is str:
        if value.written:
            raise ValueError(f"{value.written!r} would be read as {str(value)!r}")
        # Words that YAML 1.1 parses as booleans are text here; an empty value is the empty string.
        is_text = value == "" or value.lower() in _BOOLS.keys() - {"true", "false"}
        return str(value) if is_text else value.resolve()
    choices = typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()
    if choices and all(isinstance(choice, str) for choice in choices):
        return str(value)
    return value.resolve()


def show(value: Any) -> str:
    """Format a value as the user may have typed it, for error texts; a long one is shortened."""
    return decoder.show(value, _typed)


def _typed(value: Any) -> str:
    if not isinstance(value, Word):
        return repr(value)
    return "empty" if value == "" else repr(str(value)) if isinstance(value.resolve(), str) else str(value)


DECODER = Decoder(read=_read, show=show, floats=True)
"""Decodes what `yaml_source` has read, and plain values."""
