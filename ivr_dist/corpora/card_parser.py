"""Nested dataclasses from a user's YAML, refusing everything that is not understood."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from ivr_dist.config.types import convert, show
from ivr_dist.config.yaml_source import Located
from ivr_dist.errors import ConfigError

T = TypeVar("T")


def build(kind: type[T], section: Located, place: str) -> T:
    """Turn a YAML mapping into a dataclass whose fields are values, dataclasses, or dictionaries of dataclasses.

    Args:
        kind: The dataclass.
        section: The mapping, as `config_yaml` reads it.
        place: The file, for errors.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type; names the line and the key.
    """
    result: T = _dataclass(kind, section, place, "")
    return result


def suggest(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def _dataclass(kind: Any, value: Any, place: str, path: str) -> Any:
    section = _mapping(value, place, path)
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for name, item in section.items():
        if name not in hints:
            unknown = f"unknown key {_below(path, name)}"
            raise ConfigError(unknown, where=section.places[name], remedy=suggest(name, hints))
        given[name] = _value(hints[name], item, section.places[name], _below(path, name))
    for field in fields(kind):
        if field.name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"key {_below(path, field.name)} is missing", where=place, remedy="add it")
    return kind(**given)


def _value(kind: Any, value: Any, place: str, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType) and any(is_dataclass(option) for option in arguments):
        (kind,) = (option for option in arguments if option is not type(None))
    if is_dataclass(kind):
        return _dataclass(kind, value, place, path)
    if origin is dict and is_dataclass(arguments[1]):
        section = _mapping(value, place, path)
        return {
            name: _dataclass(arguments[1], item, section.places[name], _below(path, name))
            for name, item in section.items()
        }
    try:
        return convert(value, kind)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", where=place, remedy="correct it; text in quotes is always text") from None


def _mapping(value: Any, place: str, path: str) -> Located:
    if not isinstance(value, Located):
        raise ConfigError(f"{path}: {show(value)} is not a mapping", where=place, remedy="write its keys below it")
    return value


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
