"""The samples of a request decoded together, where they lie as `pack` lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from ivr_dist.errors import CorruptDataError
from ivr_dist.shards.decode import labels_of, transcript_of
from ivr_dist.shards.member_layout import Int64Array, Layout, MemberLayout
from ivr_dist.shards.sample_columns import Column, Samples
from ivr_dist.shards.sample_ids import id_of
from ivr_dist.shards.tar import BLOCK

_SIZE = slice(124, 135)
"""Octal digits of a member's size in its header."""
_DIGITS = _SIZE.stop - _SIZE.start


def decode_batch(
    keys: Sequence[str],
    shards: Sequence[str],
    segments: Sequence[memoryview],
    places: Sequence[Int64Array],
    layout: Layout,
) -> Samples | None:
    """Decode n samples, at least one, by the places of their members.

    Args:
        keys: [n] the samples that the indexes say are there.
        shards: [n] names of their shards, for errors.
        segments: [n] what holds each of them; kept in memory by what is returned.
        places: [n] of each one's members; see `Layout.places`.
        layout: Of their split.

    Returns:
        None if a member's name or an array's header is not where it should be, or a sample's JSON cannot be read;
        `decode_sample` reads any sample, or says what is wrong.
    """
    json_at, *rest = np.array(places).T.tolist()
    abouts = _abouts(keys, segments, json_at)
    if abouts is None:
        return None
    columns = {}
    for number, member in enumerate(layout.members):
        column = _column(member, keys, segments, *rest[4 * number : 4 * number + 4])
        if column is None:
            return None
        columns[member.modality] = column
    try:
        return Samples(
            keys,
            list(map(id_of, abouts, shards, keys)),
            list(map(labels_of, abouts, shards, keys)),
            list(map(transcript_of, abouts, shards, keys)),
            shards,
            columns,
        )
    except CorruptDataError:
        return None


def _column(
    member: MemberLayout,
    keys: Sequence[str],
    segments: Sequence[memoryview],
    steps: Sequence[int],
    files: Sequence[int],
    values: Sequence[int],
    ends: Sequence[int],
) -> Column | None:
    """One modality; None if one of its arrays is not where it should be."""
    # All are joined and compared at once. What is too short cannot be made up for: no part is longer than what it is
    # compared with.
    heads = [segment[file:first] for segment, file, first in zip(segments, files, values, strict=True)]
    if b"".join(heads) != b"".join(map(member.headers.__getitem__, steps)):
        return None
    if member.suffix:
        names = [f"{key}{member.suffix}" if count >= 0 else "" for key, count in zip(keys, steps, strict=True)]
        if not _named(names, segments, [file - BLOCK for file in files]):
            return None
    found = [segment[first:end] for segment, first, end in zip(segments, values, ends, strict=True)]
    return Column(member.kind, steps, found)


def _abouts(keys: Sequence[str], segments: Sequence[memoryview], at: Sequence[int]) -> list[dict[str, Any]] | None:
    """What the JSON of each sample says; None if one is not where it should be, or cannot be read."""
    if min(at) < 0 or not _named([f"{key}.json\0" for key in keys], segments, at):
        return None
    digits = b"".join(
        [segment[start + _SIZE.start : start + _SIZE.stop] for segment, start in zip(segments, at, strict=True)]
    )
    if not digits.isdigit() or len(digits) != len(keys) * _DIGITS:
        return None
    try:
        sizes = [int(digits[first : first + _DIGITS], 8) for first in range(0, len(digits), _DIGITS)]
        places = zip(segments, at, sizes, strict=True)
        found = [orjson.loads(segment[start + BLOCK : start + BLOCK + size]) for segment, start, size in places]
    except ValueError:
        return None
    return found if all(type(about) is dict for about in found) else None


def _named(names: Sequence[str], segments: Sequence[memoryview], at: Sequence[int]) -> bool:
    """Whether the headers at these places begin with these names."""
    encoded = [name.encode(errors="surrogateescape") for name in names]
    places = zip(segments, at, map(len, encoded), strict=True)
    return b"".join([segment[start : start + size] for segment, start, size in places]) == b"".join(encoded)
