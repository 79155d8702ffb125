"""Batch decoding: all samples of a request at once, where their members have the layout that `pack` writes.

1. Take the offset of each member from the layout, without parsing tar headers.
2. Check that all JSON members have the expected name, by one comparison of joined bytes; parse their JSON.
3. Check that the `.npy` headers of each modality are the expected ones, likewise by one comparison.
4. Return the values as views, by modality.

If any check fails, nothing is returned, and the caller decodes the samples one by one.
"""

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


# decision 017
def decode_batch(
    keys: Sequence[str],
    shards: Sequence[str],
    segments: Sequence[memoryview],
    offsets: Sequence[Int64Array],
    layout: Layout,
) -> Samples | None:
    """Decode n samples, at least one, by the offsets of their members.

    Args:
        keys: [n] keys of the samples according to the indexes.
        shards: [n] names of their shards, for errors.
        segments: [n] the segment that holds each sample; the result keeps it in memory.
        offsets: [n] offsets of the members of each sample; see `Layout.member_offsets`.
        layout: Layout of their split.

    Returns:
        None if a member's name or an array's header is not at the expected offset, or a sample's JSON cannot be read;
        `decode_sample` reads any sample, or raises an error that names the problem.
    """
    json_offsets, *rest = np.array(offsets).T.tolist()
    metadata = _parse_json(keys, segments, json_offsets)
    if metadata is None:
        return None
    columns = {}
    for number, member in enumerate(layout.members):
        column = _column(member, keys, segments, *rest[4 * number : 4 * number + 4])
        if column is None:
            return None
        columns[member.modality] = column
    contexts = [about.get("context") for about in metadata]
    try:
        return Samples(
            keys,
            list(map(id_of, metadata, shards, keys)),
            list(map(labels_of, metadata, shards, keys)),
            list(map(transcript_of, metadata, shards, keys)),
            shards,
            columns,
            contexts if any(contexts) else (),
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
    """Decode one modality; None if one of its arrays is not at the expected offset."""
    # All headers are joined and compared at once. A header that is too short is detected, because no other part can
    # be longer than the part that it is compared with.
    heads = [segment[file:first] for segment, file, first in zip(segments, files, values, strict=True)]
    if b"".join(heads) != b"".join(map(member.headers.__getitem__, steps)):
        return None
    if member.suffix:
        names = [f"{key}{member.suffix}" if count >= 0 else "" for key, count in zip(keys, steps, strict=True)]
        if not _have_names(names, segments, [file - BLOCK for file in files]):
            return None
    views = [segment[first:end] for segment, first, end in zip(segments, values, ends, strict=True)]
    return Column(member.kind, steps, views)


def _parse_json(
    keys: Sequence[str], segments: Sequence[memoryview], offsets: Sequence[int]
) -> list[dict[str, Any]] | None:
    """Parse the JSON of each sample; None if one is not at the expected offset, or cannot be read."""
    if min(offsets) < 0 or not _have_names([f"{key}.json\0" for key in keys], segments, offsets):
        return None
    digits = b"".join(
        [segment[start + _SIZE.start : start + _SIZE.stop] for segment, start in zip(segments, offsets, strict=True)]
    )
    if not digits.isdigit() or len(digits) != len(keys) * _DIGITS:
        return None
    try:
        sizes = [int(digits[first : first + _DIGITS], 8) for first in range(0, len(digits), _DIGITS)]
        spans = zip(segments, offsets, sizes, strict=True)
        metadata = [orjson.loads(segment[start + BLOCK : start + BLOCK + size]) for segment, start, size in spans]
    except ValueError:
        return None
    return metadata if all(type(each) is dict for each in metadata) else None


def _have_names(names: Sequence[str], segments: Sequence[memoryview], offsets: Sequence[int]) -> bool:
    """Whether the headers at these offsets begin with these names."""
    encoded = [name.encode(errors="surrogateescape") for name in names]
    spans = zip(segments, offsets, map(len, encoded), strict=True)
    return b"".join([segment[start : start + size] for segment, start, size in spans]) == b"".join(encoded)
