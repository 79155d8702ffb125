"""The bytes of one sample, as they stand in a shard, to labels and arrays."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist.data import npy
from ivr_dist.data.tar import Member, samples
from ivr_dist.errors import CorruptDataError


@dataclass(frozen=True)
class RawSample:
    """One utterance as stored."""

    key: str
    """Name of its members in the shard."""
    id: str
    """Identity in its corpus."""
    labels: Mapping[str, float | None]
    """By task; None where there is no label."""
    arrays: Mapping[str, npt.NDArray[np.generic]]
    """By modality: [T, D] features or [T] token ids, read-only; a missing modality is absent."""
    shard: str = ""
    """Name of the shard it came from."""
    words: tuple[str, ...] = ()
    """What was said: the transcript cut at white space, or its list of words as it stands; empty if there is none."""

    @property
    def where(self) -> str:
        """Shard and sample, for errors."""
        return f"{self.shard}, sample {self.key}"


def decode_sample(data: bytes | memoryview, shard: str, key: str, modalities: Collection[str]) -> RawSample:
    """Decode one sample.

    Args:
        data: Whole tar members, headers and padding included; the arrays keep it in memory.
        shard: Name of the shard, for errors.
        key: The sample that the index says is here.
        modalities: Which arrays to decode, of those that are there.

    Raises:
        CorruptDataError: These are not the members of this sample, or one of them cannot be read.
    """
    return decode_with_json(data, shard, key, modalities)[0]


def decode_with_json(
    data: bytes | memoryview, shard: str, key: str, modalities: Collection[str]
) -> tuple[RawSample, dict[str, Any]]:
    """Like `decode_sample`, with all that the sample's JSON holds."""
    where = f"{shard}, sample {key}"
    members = _members(data, where, key)
    if "json" not in members:
        raise _refused(f"the sample has no {key}.json", where)
    content = memoryview(data)
    about = _about(bytes(_payload(content, members["json"])), where)
    arrays = {
        name: npy.parse(_payload(content, member), f"{where}, {member.suffix}")
        for name in modalities
        if (member := members.get(f"{name}.npy")) is not None
    }
    for name, array in arrays.items():
        if array.ndim == 0:
            raise _refused(f"{name} is a single number, not a sequence of steps", where)
    id_ = str(about.get("id", key))
    return RawSample(key, id_, _labels(about, where), arrays, shard, _words(about, where)), about


def _members(data: bytes | memoryview, where: str, key: str) -> dict[str, Member]:
    """The members of the one sample in `data`, by suffix."""
    found = list(samples(data, where))
    if [group[0].key for group in found] != [key]:
        raise _refused("the shard does not hold this sample where its index says", where)
    members = {member.suffix: member for member in found[0]}
    if len(members) != len(found[0]):
        raise _refused("two members of the sample have one suffix", where)
    return members


def _payload(data: memoryview, member: Member) -> memoryview:
    return data[member.payload : member.payload + member.size]


def _about(text: bytes, where: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"the sample's JSON cannot be read: {error}", where) from error
    if not isinstance(about, dict):
        raise _refused("the sample's JSON is not an object", where)
    return about


def _labels(about: Mapping[str, Any], where: str) -> dict[str, float | None]:
    labels = about.get("labels", {})
    if not isinstance(labels, dict):
        raise _refused("the sample's labels are not an object of numbers by task", where)
    return {task: None if value is None else _number(task, value, where) for task, value in labels.items()}


def _words(about: Mapping[str, Any], where: str) -> tuple[str, ...]:
    transcript = about.get("transcript")
    if transcript is None:
        return ()
    if isinstance(transcript, str):
        return tuple(transcript.split())
    if isinstance(transcript, list) and all(isinstance(word, str) for word in transcript):
        return tuple(word for word in transcript if word.strip())
    raise _refused("the sample's transcript is neither a text nor a list of words", where)


def _number(task: str, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise _refused(f"label {task} is {value!r}, not a finite number", where)
    return float(value)


def _refused(what: str, where: str) -> CorruptDataError:
    return CorruptDataError(what, where=where, remedy="correct the source and pack the split again")
