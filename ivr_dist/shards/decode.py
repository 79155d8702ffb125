"""The bytes of one sample, as they stand in a shard, to labels and arrays."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ivr_dist.common import strict_json
from ivr_dist.errors import CorruptDataError
from ivr_dist.shards import npy
from ivr_dist.shards.sample_ids import id_of
from ivr_dist.shards.tar import samples

Transcript = str | tuple[str, ...]
"""What was said: a text, or a list of words as it stands; empty if there is none."""


@dataclass(frozen=True, slots=True)
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
    transcript: Transcript = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Those of the transcript."""
        return words_of(self.transcript)

    @property
    def where(self) -> str:
        """Shard and sample, for errors."""
        return f"{self.shard}, sample {self.key}"


def words_of(transcript: Transcript) -> tuple[str, ...]:
    """The words of a transcript, a text cut at white space."""
    return tuple(transcript.split()) if isinstance(transcript, str) else transcript


_NUMBERS = (float, int)
"""Of JSON; bool is an int to Python, and no number here."""
_LARGEST = sys.float_info.max


def decode_sample(
    data: bytes | memoryview, shard: str, key: str, modalities: Collection[str], strict: bool = False
) -> RawSample:
    """Decode one sample.

    Args:
        data: Whole tar members, headers and padding included; the arrays keep it in memory.
        shard: Name of the shard, for errors.
        key: The sample that the index says is here.
        modalities: Which arrays to decode, of those that are there.
        strict: Whether to refuse what reads well but would be misunderstood: a key of the JSON given twice, and arrays
            that are no member of the sample because of a dot in the key.

    Raises:
        CorruptDataError: These are not the members of this sample, or one of them cannot be read.
    """
    return decode_with_json(data, shard, key, modalities, strict)[0]


def read_id(data: memoryview, shard: str, key: str) -> str:
    """The id of one sample; nothing else of it is decoded.

    Raises:
        CorruptDataError: As for `decode_sample`.
    """
    return id_of(_json(data, shard, key)[0], shard, key)


def _sample(about: Mapping[str, Any], arrays: dict[str, npt.NDArray[Any]], shard: str, key: str) -> RawSample:
    labels, transcript = labels_of(about, shard, key), transcript_of(about, shard, key)
    return RawSample(key, id_of(about, shard, key), labels, arrays, shard, transcript)


def decode_with_json(
    data: bytes | memoryview, shard: str, key: str, modalities: Collection[str], strict: bool = False
) -> tuple[RawSample, dict[str, Any]]:
    """Like `decode_sample`, with all that the sample's JSON holds."""
    data = memoryview(data)
    about, places = _json(data, shard, key, strict)
    if strict:
        _refuse_dotted(places, shard, key, modalities)
    arrays = {}
    for name in modalities:
        place = places.get(f"{name}.npy")
        if place is not None:
            arrays[name] = _array(data, shard, key, name, *place)
    return _sample(about, arrays, shard, key), about


def decode_members(members: Mapping[str, bytes], shard: str, key: str, modalities: Collection[str]) -> RawSample:
    """Like `decode_sample`, from the contents of the members by suffix."""
    if "json" not in members:
        raise _no_json(members, shard, key)
    arrays = {name: _array(members[f"{name}.npy"], shard, key, name) for name in modalities if f"{name}.npy" in members}
    return _sample(_about(members["json"], shard, key), arrays, shard, key)


def _no_json(suffixes: Iterable[str], shard: str, key: str) -> CorruptDataError:
    dotted = next((suffix for suffix in suffixes if suffix.endswith(".json")), None)
    if dotted is None:
        return _refused(f"the sample has no {key}.json", f"{shard}, sample {key}")
    return _dotted(f"the sample has no {key}.json", dotted, shard, key)


def _refuse_dotted(suffixes: Iterable[str], shard: str, key: str, modalities: Collection[str]) -> None:
    endings = tuple(f".{name}.npy" for name in modalities)
    for suffix in suffixes:
        if suffix.endswith(endings):
            raise _dotted("an array would be left out", suffix, shard, key)


def _dotted(what: str, suffix: str, shard: str, key: str) -> CorruptDataError:
    return CorruptDataError(
        f"{what}: a key ends at the first dot, so {key}.{suffix} is {suffix} of sample {key}",
        where=f"{shard}, sample {key}",
        remedy="make the tar again with keys without dots",
    )


def _array(
    data: bytes | memoryview, shard: str, key: str, name: str, start: int = 0, end: int | None = None
) -> npt.NDArray[Any]:
    array = npy.parse(data, f"{shard}, sample {key}, {name}.npy", npy.NUMBERS, start, end)
    if array.ndim == 0:
        raise _refused(f"{name} is a single number, not a sequence of steps", f"{shard}, sample {key}")
    return array


Places = dict[str, tuple[int, int]]
"""By suffix: where the content of a member begins and ends."""


def _members(data: memoryview, where: str, key: str) -> Places:
    """The members of the one sample in `data`, by suffix."""
    found = list(samples(data, where))
    if [group[0].key for group in found] != [key]:
        raise _refused("the shard does not hold this sample where its index says", where)
    members = {member.suffix: (member.payload, member.payload + member.size) for member in found[0]}
    if len(members) != len(found[0]):
        counts = Counter(member.suffix for member in found[0])
        twice = next(suffix for suffix, count in counts.items() if count > 1)
        raise _refused(f"two members of the sample are named {key}.{twice}", where)
    return members


def _json(data: memoryview, shard: str, key: str, strict: bool = False) -> tuple[dict[str, Any], Places]:
    """What the sample's JSON holds, and where its members are."""
    places = _members(data, f"{shard}, sample {key}", key)
    if "json" not in places:
        raise _no_json(places, shard, key)
    first, last = places["json"]
    return _about(bytes(data[first:last]), shard, key, strict), places


def _about(text: bytes, shard: str, key: str, strict: bool = False) -> dict[str, Any]:
    try:
        about = strict_json.loads(text) if strict else orjson.loads(text)
    except ValueError:
        # Python's own reads more: other encodings, NaN; and says where what cannot be read is wrong.
        try:
            about = strict_json.loads(text)
        except ValueError as error:
            raise _refused(f"the sample's JSON cannot be read: {error}", f"{shard}, sample {key}") from error
    if not isinstance(about, dict):
        raise _refused("the sample's JSON is not an object", f"{shard}, sample {key}")
    return about


def labels_of(about: Mapping[str, Any], shard: str, key: str) -> dict[str, float | None]:
    """The labels in a sample's JSON, by task.

    Raises:
        CorruptDataError: They are something else.
    """
    labels = about.get("labels", {})
    if not isinstance(labels, dict):
        raise _refused("the sample's labels are not an object of numbers by task", f"{shard}, sample {key}")
    for task, value in labels.items():
        if value is not None and not (type(value) in _NUMBERS and abs(value) <= _LARGEST):
            shown = repr(value) if not isinstance(value, int) or abs(value) <= _LARGEST else "of hundreds of digits"
            raise _refused(f"label {task} is {shown}, not a finite number", f"{shard}, sample {key}")
    return labels


def transcript_of(about: Mapping[str, Any], shard: str, key: str) -> Transcript:
    """The transcript in a sample's JSON.

    Raises:
        CorruptDataError: It is something else.
    """
    transcript = about.get("transcript")
    if transcript is None:
        return ()
    if isinstance(transcript, str):
        return transcript
    if isinstance(transcript, list) and all(isinstance(word, str) for word in transcript):
        return tuple(word for word in transcript if word.strip())
    raise _refused("the sample's transcript is neither a text nor a list of words", f"{shard}, sample {key}")


def _refused(what: str, where: str) -> CorruptDataError:
    return CorruptDataError(what, where=where, remedy="correct the source and pack the split again")
