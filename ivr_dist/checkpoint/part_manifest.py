"""Part manifests: the files and fragments that one worker wrote of a checkpoint (decision 012).

A part manifest is a JSON object whose last key, `sha256`, is the checksum of all the text before it, so that a single
changed bit is detected. A manifest with a valid checksum is still untrusted input: every key must be present and of its
type, file names are plain, and the fragments of all parts must cover each parameter exactly once.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from ivr_dist import storage
from ivr_dist.common import strict_json
from ivr_dist.sanitize import shorten

FORMAT = 3
UNSEALED_FORMAT = 2
"""The previous format, which is still read: without `sha256` and `checkpoint`."""
STATE = "state.json"
TEXT_ENCODER = "text_encoder"
WEIGHT = "weight"

_SEAL = re.compile(r'(.*), "sha256": "([0-9a-f]{64})"\}', re.DOTALL)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"part-\d+\.json")
_MOST_PARTS = 100_000
_MOST_ELEMENTS = 2**62
_MOST_DIMENSIONS = 64


class UnknownFormatError(ValueError):
    """A manifest of a format that this version cannot read.

    Args:
        format_: The format it names.
    """

    def __init__(self, format_: object) -> None:
        super().__init__(f"format {shorten(str(format_), 20)}")
        self.format = shorten(str(format_), 20)


@dataclass(frozen=True)
class FileEntry:
    """A file of a checkpoint."""

    name: str
    """A plain name, or `text_encoder/` and a plain name."""
    size: int
    sha256: str


@dataclass(frozen=True)
class FragmentEntry:
    """Elements `offset .. offset + numel` of a flattened parameter, in the tensor files of a part."""

    parameter: str
    offset: int
    numel: int
    states: tuple[str, ...]
    """`weight`, and the optimizer's states of each element, by its names."""
    scalars: Mapping[str, float]
    """Optimizer state kept once for the parameter."""


@dataclass(frozen=True)
class PartManifest:
    """One part."""

    format: int
    rank: int
    world: int
    checkpoint: str
    """Identifies the checkpoint that the part belongs to; empty in the previous format."""
    files: tuple[FileEntry, ...]
    fragments: tuple[FragmentEntry, ...]


def part_name(rank: int) -> str:
    """Return the name of a part's manifest."""
    return f"part-{rank:05d}.json"


def weights_file(rank: int) -> str:
    """Return the name of a part's weights file."""
    return f"weights-{rank:05d}.safetensors"


def optimizer_file(rank: int) -> str:
    """Return the name of a part's optimizer file."""
    return f"optimizer-{rank:05d}.safetensors"


def to_text(
    rank: int, world: int, checkpoint: str, files: Sequence[Mapping[str, Any]], fragments: Sequence[Mapping[str, Any]]
) -> str:
    """Serialize a part manifest, with its checksum."""
    content = {
        "format": FORMAT,
        "rank": rank,
        "world": world,
        "checkpoint": checkpoint,
        "files": list(files),
        "fragments": list(fragments),
    }
    text = json.dumps(content)[:-1]
    return f'{text}, "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"}}'


def parse(data: bytes, rank: int) -> PartManifest:
    """Parse and validate the manifest of part `rank`.

    Raises:
        UnknownFormatError: It has another format.
        ValueError: Its checksum does not match, or it is malformed.
    """
    text = data.decode("utf-8")
    seal = _SEAL.fullmatch(text)
    if seal and hashlib.sha256(seal[1].encode()).hexdigest() != seal[2]:
        raise ValueError("it does not match its own checksum")
    content = parse_object(data)
    format_ = content.get("format")
    if format_ == FORMAT and not seal:
        raise ValueError("it does not match its own checksum")
    if type(format_) is not int or format_ not in (FORMAT, UNSEALED_FORMAT):
        raise UnknownFormatError(format_)
    part = _part(content, format_)
    if part.rank != rank:
        raise ValueError(f"it is part {part.rank} of {part.world}")
    return part


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object without duplicate keys.

    Raises:
        ValueError: It is not one.
    """
    content = strict_json.loads(data.decode("utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def check_shapes(shapes: Any) -> None:
    """Check that a value maps parameter names to shapes.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(shapes, dict):
        raise ValueError("shapes is not an object")
    for name, shape in shapes.items():
        sizes = [_integer(size, "a shape's size", 0, _MOST_ELEMENTS) for size in _list(shape, "a shape")]
        if not _text(name, "a parameter's name") or prod(sizes) > _MOST_ELEMENTS or len(sizes) > _MOST_DIMENSIONS:
            raise ValueError(f"{shorten(name, 80)!r} has no shape")


def check_together(parts: Sequence[PartManifest]) -> None:
    """Check that parts belong to one checkpoint.

    Raises:
        ValueError: They do not; the text names the part.
    """
    first = parts[0]
    for part in parts:
        if (part.format, part.world, part.checkpoint) != (first.format, first.world, first.checkpoint):
            raise ValueError(f"{part_name(part.rank)} is of another checkpoint than {part_name(first.rank)}")
    names: set[str] = set()
    for part in parts:
        for entry in part.files:
            if entry.name in names:
                raise ValueError(f"two parts have a file {entry.name}")
            names.add(entry.name)
        missing = {weights_file(part.rank), optimizer_file(part.rank)} - {entry.name for entry in part.files}
        if part.fragments and missing:
            raise ValueError(f"{part_name(part.rank)} does not name {min(missing)}")


def check_cover(parts: Sequence[PartManifest], shapes: Mapping[str, Sequence[int]]) -> None:
    """Check that the fragments of all parts cover each parameter exactly once.

    Args:
        parts: All of a checkpoint.
        shapes: The shape of each parameter and buffer.

    Raises:
        ValueError: A parameter is unknown, or some of its elements are in no fragment, or in two.
    """
    spans: dict[str, list[tuple[int, int]]] = {name: [] for name in shapes}
    scalars: dict[str, Mapping[str, float]] = {}
    for part in parts:
        for fragment in part.fragments:
            if fragment.parameter not in spans:
                raise ValueError(f"{STATE} has no parameter {shorten(fragment.parameter, 80)!r}")
            spans[fragment.parameter].append((fragment.offset, fragment.offset + fragment.numel))
            # Every worker has taken as many steps.
            steps = fragment.scalars.get("step"), scalars.setdefault(fragment.parameter, fragment.scalars).get("step")
            if steps[0] != steps[1]:
                raise ValueError(f"the optimizer's steps of {fragment.parameter} are {steps[1]} and {steps[0]}")
    for name, spans_of_parameter in spans.items():
        # Fragments without elements, of parameters without any, cover nothing.
        runs = sorted(run for run in spans_of_parameter if run[0] < run[1])
        bounds = [(0, 0), *runs, (prod(shapes[name]),) * 2]
        for before, after in pairwise(bounds):
            if before[1] != after[0]:
                how = "no fragment" if before[1] < after[0] else "two fragments"
                raise ValueError(f"elements of {shorten(name, 80)} from {min(before[1], after[0])} on are in {how}")


def _part(content: Mapping[str, Any], format_: int) -> PartManifest:
    sealed = {"checkpoint", "sha256"} if format_ == FORMAT else set()
    _keys(content, {"format", "rank", "world", "files", "fragments"} | sealed, "the manifest")
    world = _integer(content["world"], "world", 1, _MOST_PARTS)
    return PartManifest(
        format_,
        _integer(content["rank"], "rank", 0, world - 1),
        world,
        _text(content.get("checkpoint", ""), "checkpoint"),
        tuple(_distinct_by("file", (_file(entry) for entry in _list(content["files"], "files")), "name")),
        tuple(_distinct_by("parameter", (_fragment(e) for e in _list(content["fragments"], "fragments")), "parameter")),
    )


def _file(entry: Any) -> FileEntry:
    _keys(entry, {"name", "size", "sha256"}, "a file")
    name = _text(entry["name"], "name")
    if not storage.is_plain(name.removeprefix(f"{TEXT_ENCODER}/")) or _PART.fullmatch(name):
        raise ValueError(f"{shorten(name, 80)!r} is not the name of a file of a checkpoint")
    digest = _text(entry["sha256"], "sha256")
    if not _SHA256.fullmatch(digest):
        raise ValueError(f"{name} has no sha256")
    return FileEntry(name, _integer(entry["size"], "size", 0, _MOST_ELEMENTS), digest)


def _fragment(entry: Any) -> FragmentEntry:
    _keys(entry, {"parameter", "offset", "numel", "states"}, "a fragment", {"scalars"})
    states = [_text(state, "states") for state in _list(entry["states"], "states")]
    scalars = entry.get("scalars", {})
    if WEIGHT not in states or len(set(states)) != len(states) or not isinstance(scalars, dict):
        raise ValueError("a fragment's states or scalars are invalid")
    for name, value in scalars.items():
        if type(value) not in (int, float) or (type(value) is int and abs(value) > sys.float_info.max):
            raise ValueError(f"{shorten(name, 80)!r} of a fragment is not a number")
    return FragmentEntry(
        _text(entry["parameter"], "parameter"),
        _integer(entry["offset"], "offset", 0, _MOST_ELEMENTS),
        _integer(entry["numel"], "numel", 0, _MOST_ELEMENTS),
        tuple(states),
        scalars,
    )


def _distinct_by(what: str, entries: Iterable[Any], key: str) -> list[Any]:
    items = list(entries)
    if len({getattr(entry, key) for entry in items}) != len(items):
        raise ValueError(f"a {what} occurs twice")
    return items


def _keys(value: Any, required: set[str], what: str, optional: frozenset[str] | set[str] = frozenset()) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not an object")
    if differing := sorted((value.keys() - optional) ^ required):
        raise ValueError(
            f"{what} {'lacks' if differing[0] in required else 'has'} the key {shorten(differing[0], 80)!r}"
        )


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is not a list")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{what} is not a text")
    return value


def _integer(value: Any, what: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what} is not a whole number from {low} to {high}")
    return value
