"""The reference of all keys, generated from the schema: lists, explanations of keys, and the page docs/config.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from textwrap import wrap
from typing import Any, get_origin

from ivr_dist.config.schema import Config
from ivr_dist.config.suggestions import suggest_keys
from ivr_dist.config.synonyms import SYNONYMS
from ivr_dist.config.types import ENTRY, Key, entry_keys, entry_kind, keys, section_fields, section_paths
from ivr_dist.config.yaml_writer import yaml_value
from ivr_dist.errors import ConfigError

_WIDTH = 80
_COLUMN = 34
"""Column of the doc lines in a list."""

_PAGE_HEAD = """\
# Config keys

Generated from `ivr_dist/config/schema.py` by `ivr-dist config --markdown`; a test keeps it current.

A config is a YAML file of the sections below, followed on the command line by overrides `section.key=value`.
`ivr-dist config KEY` explains a key, `ivr-dist config --schema` prints the JSON schema for editors, and
`ivr-dist config --effective FILE` shows every value of a config and where it came from. The last column states the
effect of another value on a run that has begun.
"""


def describe_keys() -> list[tuple[str, str, str, str]]:
    """Rows of the reference: key, type in words, default as YAML, doc line."""
    return [(key.path, type_and_range(key), yaml_value(key.default), key.doc) for key in _all_keys().values()]


def type_and_range(key: Key) -> str:
    """Describe the type and range of a key: `a number above 0`, `a whole number of at least 1, or null`."""
    if key.range is None:
        return key.type_name
    if "list" in key.type_name or "mapping" in key.type_name:
        return f"{key.type_name}, each {key.range}"
    kind, comma, null = key.type_name.partition(", or null")
    return f"{kind}, {key.range}{comma}{null}"


def list_keys(prefix: str = "") -> list[str]:
    """List the keys below a section, as lines with default and doc line.

    Args:
        prefix: A section's path; empty lists all.
    """
    return [line for key in _below(prefix) for line in _entry(key)]


def search_keys(word: str) -> list[str]:
    """Lines of a list of the keys whose names, doc lines or synonyms hold all these words."""
    parts = word.lower().split()
    names: dict[str, list[str]] = {}
    for name, synonym in SYNONYMS.items():
        names.setdefault(synonym.key, []).append(name)
    texts = {path: " ".join((path, key.doc, *names.get(path, ()))).lower() for path, key in _all_keys().items()}
    return [
        line
        for path, text in texts.items()
        if all(part in text for part in parts)
        for line in _entry(_all_keys()[path])
    ]


def explain(path: str, effects: Mapping[str, str]) -> list[str]:
    """Explain a key, as lines: type, range, default, meaning, effect of a change; or list the keys of a section.

    Args:
        path: Dotted path of a key or a section.
        effects: By key: the effect of another value on a run that has begun.

    Raises:
        ConfigError: There is no such key; the remedy names similar ones.
    """
    if path in section_paths():
        return [f"{path}: {_section_doc(path)}", "", *list_keys(path)]
    name, equals, _ = path.partition("=")
    if equals:
        raise ConfigError(
            f"{path} sets a value", remedy=f"give the key alone, {name}; overrides belong to --effective CONFIG"
        )
    key = _key_of(path)
    if key is None:
        raise ConfigError(f"unknown key {path or repr(path)}", remedy=suggest_keys(path)[1])
    path = key.path
    names = [name for name, synonym in SYNONYMS.items() if synonym.key == path]
    lines = [f"{path}   {type_and_range(key)}; default {yaml_value(key.default)}", *_indented(key.doc)]
    if path in effects:
        lines += _indented(f"In a run that has begun: {effects[path]}.")
    return lines + (_indented(f"In other frameworks: {', '.join(names)}.") if names else [])


def _key_of(path: str) -> Key | None:
    """A key, or the mapping that a path names an entry of, such as `loss.tasks.happy`."""
    for entry in entry_keys().values():
        pattern = re.escape(entry.path).replace(ENTRY, r"[^.]+")
        if re.fullmatch(pattern, path):
            return entry
    while path not in keys() and "." in path:
        path = path.rpartition(".")[0]
        if path in keys() and get_origin(keys()[path].annotation) is not dict:
            return None
    return keys().get(path)


def markdown(effects: Mapping[str, str]) -> str:
    """Generate the page docs/config.md: a table for each section, and the names of other frameworks.

    Args:
        effects: As for `explain`.
    """
    lines = [_PAGE_HEAD]
    entries = dict.fromkeys(path.rpartition(".")[0] for path in entry_keys())
    for path in ["", *_sections(), *entries]:
        own = [key for key in _below(path) if key.path.rpartition(".")[0] == path]
        if not own:
            continue
        title, doc = (f"`{path}`", _section_doc(path)) if path else ("Top level", "Keys without a section.")
        lines += [f"## {title}", "", doc, "", "| key | type | default | meaning | in a run that has begun |"]
        lines += ["|---|---|---|---|---|", *(_row(key, effects) for key in own), ""]
    lines += ["## Names of other frameworks", "", "The error for an unknown key suggests the name used here.", ""]
    lines += ["| key | names elsewhere |", "|---|---|"]
    for key in keys():
        names = [f"`{name}`" for name, synonym in SYNONYMS.items() if synonym.key == key]
        if names:
            lines.append(f"| `{key}` | {', '.join(names)} |")
    return "\n".join(lines) + "\n"


def _row(key: Key, effects: Mapping[str, str]) -> str:
    cells = (f"`{key.path}`", type_and_range(key), f"`{yaml_value(key.default)}`", key.doc, effects.get(key.path, ""))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _entry(key: Key) -> Iterator[str]:
    head = f"{key.path} = {yaml_value(key.default)}"
    doc = wrap(key.doc, _WIDTH - _COLUMN)
    if len(head) >= _COLUMN:
        yield head
    else:
        yield f"{head:{_COLUMN}}{doc.pop(0)}"
    yield from (" " * _COLUMN + line for line in doc)


def _indented(text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _below(prefix: str) -> list[Key]:
    return [key for key in _all_keys().values() if not prefix or key.path.startswith(f"{prefix}.")]


def _all_keys() -> dict[str, Key]:
    return {**keys(), **entry_keys()}


def _sections(kind: type = Config, prefix: str = "") -> Iterator[str]:
    """Paths of all sections, in the order of the schema."""
    for name, (annotation, _) in section_fields(kind).items():
        if is_dataclass(annotation):
            yield f"{prefix}{name}"
            yield from _sections(annotation, f"{prefix}{name}.")  # type: ignore[arg-type]


def _section_doc(path: str) -> str:
    kind: Any = Config
    doc = ""
    for name in path.split("."):
        entry = entry_kind(kind)
        kind, doc = (entry, entry.__doc__ or "") if entry is not None else section_fields(kind)[name]
    return doc
