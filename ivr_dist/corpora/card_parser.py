"""Strict parser of corpus cards: YAML to nested dataclasses; errors name the line."""

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


def suggest(name: str, names: Iterable[str]) -> str:
    """Suggest the most similar of the valid names, or list all of them."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"


def _line_of(error: DecodeError, section: Located, file: str) -> str:
    """Locate the key of an error; for a missing key, the section that lacks it."""
    value, where = section, file
    for key in error.keys:
        if isinstance(value, Located):
            if key not in value.origins:
                break
            where = value.origins[str(key)]
        value = value[key]
    return where


def _remedy(error: DecodeError) -> str:
    if error.reason == "unknown":
        return suggest(str(error.keys[-1]), error.choices)
    if error.reason == "missing":
        return "add it"
    if error.what.endswith("is not a mapping"):
        return "write its keys below it"
    return "correct it; text in quotes is always text"
