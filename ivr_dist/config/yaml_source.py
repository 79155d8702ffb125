"""Reads YAML into plain dictionaries and lists that keep the file and line of each key.

PyYAML only parses. The meaning of a plain scalar is decided by the type of its key (`types.convert`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ivr_dist.common.file_signatures import HEAD, decode_text, is_text, other_kind
from ivr_dist.common.library_errors import describe
from ivr_dist.config.types import Word
from ivr_dist.errors import ConfigError

_TAG_PREFIX = "tag:yaml.org,2002:"
_TAGS = frozenset(
    _TAG_PREFIX + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "timestamp", "merge", "value")
)
_STRUCTURED = ("[", "{", "'", '"', "!")
_BEHIND = re.compile(r"[ \t]+#[^\s#].*")
"""Text after a plain value that YAML parses as a comment, but that is not written like one: `runs/take #2`."""

_MERGE = "<<"
_BLANK = "nothing but blanks"
_MAX_DEPTH = 50
_MAX_REPEATED = 1000
_DEEP = f"lists or mappings are nested more than {_MAX_DEPTH} deep"


class Located(dict[str, Any]):
    """A mapping from a user's file, with the file and line of each key (`configs/mosi.yaml:12`) in `origins`."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[str, str] = {}


def read_yaml(path: str) -> Located:
    """Read a YAML file whose top level is a mapping; an empty file is an empty mapping.

    Raises:
        ConfigError: The file cannot be read or is not such YAML.
    """
    if not path:
        raise ConfigError("the path of the config file is empty", remedy="name a YAML file")
    if "://" in path:
        raise ConfigError("a config file must be on this machine", where=path, remedy="download it, and give its path")
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            "no such config file", where=path, remedy="check the path; examples are in configs/"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the config file cannot be read: {getattr(error, 'strerror', None) or describe(error)}",
            where=path,
            remedy="give a YAML text file",
        ) from None
    # An empty file is a config of defaults.
    if data and (other := other_kind(data[:HEAD], "a YAML text file", _BLANK)) is not None:
        raise ConfigError(other[0], where=path, remedy=other[1])
    try:
        text = decode_text(data)
    except ValueError as error:
        raise ConfigError(f"the file cannot be read: {error}", where=path, remedy="save it as UTF-8") from None
    value = _parse(text, lambda mark: f"{path}:{mark.line + 1}" if mark else path)
    if value == "" and isinstance(value, Word):
        return Located()
    if not isinstance(value, Located):
        raise ConfigError(
            "a config must be a mapping of sections", where=path, remedy="start with a section such as train:"
        )
    return value


def parse_value(text: str, where: str) -> Any:
    """Parse the value of an override; an empty text is an empty `Word`.

    Lists, mappings and quoted texts are YAML. Anything else is one scalar, taken literally: overrides have no comments.

    Raises:
        ConfigError: It is not YAML, or text follows it.
    """
    plain = text.strip()
    if not plain.startswith(_STRUCTURED):
        word = Word(plain)
        if plain and plain != text:
            word.written = text
        return word
    value = _parse(text, lambda mark: where)
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert node is not None
    if behind := text[node.end_mark.index :].strip():
        raise ConfigError(
            f"{behind} after the value would not be read", where=where, remedy="remove it, or include it in the quotes"
        )
    return value


def _parse(text: str, where_of: Callable[[yaml.Mark | None], str]) -> Any:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable")
        problem = problem.removeprefix("but ")
        where = where_of(getattr(error, "problem_mark", None))
        raise ConfigError(
            f"not valid YAML: {problem}",
            where=where,
            remedy="check indentation, colons and quotes",
        ) from None
    except RecursionError:
        raise ConfigError(_DEEP, where=where_of(None), remedy="write it flatter") from None
    return Word("") if node is None else _Reader(where_of).value(node, 0)


def _word(node: yaml.ScalarNode) -> Word:
    word = Word(node.value)
    end = node.end_mark
    if node.value and end.buffer is not None and (behind := _BEHIND.match(end.buffer, end.pointer)):
        word.written = node.value + behind[0].rstrip("\0")
    return word


class _Reader:
    """Converts nodes to values. Aliases repeat values, so the number of repeated values is bounded."""

    def __init__(self, where_of: Callable[[yaml.Mark | None], str]) -> None:
        self._where = where_of
        self._seen: set[int] = set()
        self._repeated = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        """The value of a node."""
        where = self._where(node.start_mark)
        if depth > _MAX_DEPTH:
            raise ConfigError(_DEEP, where=where, remedy="write it flatter; an alias cannot hold itself")
        if id(node) in self._seen:
            self._repeated += 1
        self._seen.add(id(node))
        if self._repeated > _MAX_REPEATED:
            what = f"the aliases of the file repeat more than {_MAX_REPEATED} values"
            raise ConfigError(what, where=where, remedy="write the values out")
        if node.tag not in _TAGS:
            tag = node.tag.replace(_TAG_PREFIX, "!!")
            raise ConfigError(f"the tag {tag} is not allowed", where=where, remedy="write a plain value")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, depth + 1) for child in node.value]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        assert isinstance(node, yaml.ScalarNode)
        if "\0" in node.value or not is_text(node.value):
            what = "a zero byte, or half of a character that takes two (a lone surrogate)"
            raise ConfigError(what, where=where, remedy="write the text itself")
        return _word(node) if node.style is None else str(node.value)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> Located:
        mapping = Located()
        for key_node, value_node in node.value:
            where = self._where(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError("a key must be a name", where=where, remedy="write key: value")
            name = str(self.value(key_node, depth + 1))
            if name == _MERGE and isinstance(value_node, yaml.CollectionNode):
                remedy = "write the keys out"
                raise ConfigError("merge keys (<<) are not supported", where=where, remedy=remedy)
            if name in mapping:
                first = mapping.origins[name]
                earlier = "" if first == where else f", first at {first}"
                raise ConfigError(f"{name} is given twice{earlier}", where=where, remedy="keep one of them")
            mapping[name] = self.value(value_node, depth + 1)
            mapping.origins[name] = where
        return mapping
