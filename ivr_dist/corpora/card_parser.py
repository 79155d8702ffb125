"""Strict parser of corpus cards: nested dataclasses from a user's YAML, with the line of whatever is not understood."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

from ivr_dist.common.decoder import DecodeError
from ivr_dist.config.types import DECODER
from ivr_dist.config.yaml_source import Located
from ivr_dist.errors import ConfigError

T = TypeVar("T")


def build(kind: type[T], section: Located, file: str) -> T:
    """Turn a YAML mapping into a dataclass.

    Args:
        kind: The dataclass.
        section: The mapping, as `yaml_source` reads it.
        file: The file, for errors.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type; names the line and the key.
    """
    try:
        return DECODER.decode(kind, section)
    except DecodeError as error:
        raise ConfigError(str(error), where=_line_of(error, section, file), remedy=_remedy(error)) from None


def suggest(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def _line_of(error: DecodeError, section: Located, file: str) -> str:
    """The line of the key that an error is about; of a missing one, that of the section which lacks it."""
    value, place = section, file
    for key in error.keys:
        if isinstance(value, Located):
            if key not in value.places:
                break
            place = value.places[str(key)]
        value = value[key]
    return place


def _remedy(error: DecodeError) -> str:
    if error.reason == "unknown":
        return suggest(str(error.keys[-1]), error.choices)
    if error.reason == "missing":
        return "add it"
    if error.what.endswith("is not a mapping"):
        return "write its keys below it"
    return "correct it; text in quotes is always text"
