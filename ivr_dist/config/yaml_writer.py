"""Writes configs as YAML with comments, which `loading` and any other YAML reader read back to the same values."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import yaml

from ivr_dist.config.declaration import key_name
from ivr_dist.config.schema import Config
from ivr_dist.config.types import Word, section_fields

_PLAIN = re.compile(r"[A-Za-z_/][\w/.-]*(://[\w/.-]+)?", re.ASCII)


def to_yaml(config: Config, comment: Callable[[str], str] | None = None) -> str:
    """Format the whole config as YAML; `load_config` reads it back to an equal config.

    Args:
        config: The config.
        comment: Returns the comment after a key's value, given its path; None: each key has its doc line above it.
    """
    return "".join(f"{line}\n" for line in _yaml_lines(config, "", "", comment))


def _yaml_lines(section: Any, prefix: str, indent: str, comment: Callable[[str], str] | None) -> Iterator[str]:
    kind: type = type(section)
    for name, (annotation, doc) in section_fields(kind).items():
        value, name = getattr(section, name), key_name(name)
        path = f"{prefix}{name}"
        if comment is None:
            yield f"{indent}# {doc}"
        if is_dataclass(annotation):
            yield f"{indent}{name}:"
            yield from _yaml_lines(value, f"{path}.", f"{indent}  ", comment)
        else:
            behind = "" if comment is None else f"  # {comment(path)}"
            yield f"{indent}{name}: {yaml_value(value)}{behind}"


def _set_fields(entry: Any) -> dict[str, Any]:
    """The keys of the entry of a mapping of sections that differ from their defaults."""
    default = type(entry)()
    values = {item.name: getattr(entry, item.name) for item in fields(entry)}
    return {key_name(name): value for name, value in values.items() if value != getattr(default, name)}


def yaml_value(value: Any) -> str:
    """Format one value in flow style, quoted where some YAML reader would not parse it as text."""
    if is_dataclass(value) and not isinstance(value, type):
        value = _set_fields(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{yaml_value(name)}: {yaml_value(item)}' for name, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(yaml_value(item) for item in value)}]"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and isinstance(Word(value).resolve(), str)
        return value if plain else str(yaml.safe_dump(value, default_style='"', width=sys.maxsize)).strip()
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        # YAML 1.1 readers parse 1e-05 as text.
        return repr(value).replace("e", ".0e")
    return json.dumps(value)
