"""Decoding of one sample: tar members to labels, transcript and arrays."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from ivr_dist.common import strict_json
from ivr_dist.common.word_segmentation import split_words
from ivr_dist.errors import CorruptDataError
from ivr_dist.shards import npy
from ivr_dist.shards.sample_ids import id_of
from ivr_dist.shards.tar import samples

Transcript = str | tuple[str, ...]
"""The transcript: a text, or a list of words; empty if there is none."""


class ContextUtterance(NamedTuple):
    """An utterance before that of a sample, in the same dialogue."""

    text: str
    speaker: str = ""
    """Name of the speaker; empty if it is not known."""


@dataclass(frozen=True, slots=True)
class RawSample:
    """One utterance as stored."""

    key: str
    """Name of its members in the shard."""
    id: str
    """Unique name in its corpus."""
    labels: Mapping[str, float | None]
    """Labels by task; None where there is no label."""
    arrays: Mapping[str, npt.NDArray[np.generic]]
    """By modality: [T, D] features or [T] token ids, read-only; a missing modality is absent."""
    shard: str = ""
    """Name of its shard."""
    transcript: Transcript = ()
    context: tuple[ContextUtterance, ...] = ()
    """The utterances before it in its dialogue, oldest first; empty if there are none."""

    @property
    def words(self) -> tuple[str, ...]:
        """Words of the transcript."""
        return words_of(self.transcript)

    @property
    def where(self) -> str:
        """Shard and sample, for errors."""
        return f"{self.shard}, sample {self.key}"


def words_of(transcript: Transcript) -> tuple[str, ...]:
    """Split a transcript into words, if it is a text; see `common.word_segmentation`."""
    return tuple(split_words(transcript)) if isinstance(transcript, str) else transcript


def spaced_words(transcript: Transcript) -> tuple[str, ...]:
    """Split a transcript at white space, if it is a text, as tokenizers do; they find the words in it themselves."""
    return tuple(transcript.split()) if isinstance(transcript, str) else transcript


_NUMBERS = (float, int)
"""Types of JSON numbers; bool is a subclass of int in Python, but not a number here."""
_LARGEST = sys.float_info.max


def decode_sample(
    data: bytes | memoryview, shard: str, key: str, modalities: Collection[str], strict: bool = False
) -> RawSample:
    """Decode one sample.

    Args:
        data: Whole tar members, headers and padding included; the arrays keep it in memory.
        shard: Name of the shard, for errors.
        key: Key of the sample according to the index.
        modalities: Arrays to decode, where the sample has them.
        strict: Whether to refuse input that can be read but would be misunderstood: a JSON key given twice, and arrays
            that are not members of the sample because of a dot in the key.

    Raises:
        CorruptDataError: These are not the members of this sample, or one of them cannot be read.
    """
    return decode_with_json(data, shard, key, modalities, strict)[0]


def read_id(data: memoryview, shard: str, key: str) -> str:
    """Read the id of one sample, and decode nothing else of it.

    Raises:
        CorruptDataError: As for `decode_sample`.
    """
    return id_of(_json(data, shard, key)[0], shard, key)


def _sample(metadata: Mapping[str, Any], arrays: dict[str, npt.NDArray[Any]], shard: str, key: str) -> RawSample:
    labels, transcript = labels_of(metadata, shard, key), transcript_of(metadata, shard, key)
    context = context_of(metadata.get("context"))
    return RawSample(key, id_of(metadata, shard, key), labels, arrays, shard, transcript, context)


def decode_with_json(
    data: bytes | memoryview, shard: str, key: str, modalities: Collection[str], strict: bool = False
) -> tuple[RawSample, dict[str, Any]]:
    """Decode one sample like `decode_sample`, and return its whole JSON as well."""
    data = memoryview(data)
    metadata, spans = _json(data, shard, key, strict)
    if strict:
        _refuse_dotted(spans, shard, key, modalities)
    arrays = {}
    for name in modalities:
        span = spans.get(f"{name}.npy")
        if span is not None:
            arrays[name] = _array(data, shard, key, name, *span)
    return _sample(metadata, arrays, shard, key), metadata


def decode_members(members: Mapping[str, bytes], shard: str, key: str, modalities: Collection[str]) -> RawSample:
    """Decode one sample like `decode_sample`, from the contents of its members by suffix."""
    if "json" not in members:
        raise _no_json(members, shard, key)
    arrays = {name: _array(members[f"{name}.npy"], shard, key, name) for name in modalities if f"{name}.npy" in members}
    return _sample(_parse(members["json"], shard, key), arrays, shard, key)


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


MemberSpans = dict[str, tuple[int, int]]
"""Start and end of the content of each member, by suffix."""


def _members(data: memoryview, where: str, key: str) -> MemberSpans:
    """Find the members of the one sample in `data`, by suffix."""
    groups = list(samples(data, where))
    if [group[0].key for group in groups] != [key]:
        raise _refused("the shard does not hold this sample where its index says", where)
    spans = {member.suffix: (member.payload, member.payload + member.size) for member in groups[0]}
    if len(spans) != len(groups[0]):
        counts = Counter(member.suffix for member in groups[0])
        twice = next(suffix for suffix, count in counts.items() if count > 1)
        raise _refused(f"two members of the sample are named {key}.{twice}", where)
    return spans


def _json(data: memoryview, shard: str, key: str, strict: bool = False) -> tuple[dict[str, Any], MemberSpans]:
    """Parse the sample's JSON, and find its members."""
    spans = _members(data, f"{shard}, sample {key}", key)
    if "json" not in spans:
        raise _no_json(spans, shard, key)
    first, last = spans["json"]
    return _parse(bytes(data[first:last]), shard, key, strict), spans


def _parse(text: bytes, shard: str, key: str, strict: bool = False) -> dict[str, Any]:
    try:
        metadata = strict_json.loads(text) if strict else orjson.loads(text)
    except ValueError:
        # Python's own parser accepts more (other encodings, NaN), and its errors name the position.
        try:
            metadata = strict_json.loads(text)
        except ValueError as error:
            raise _refused(f"the sample's JSON cannot be read: {error}", f"{shard}, sample {key}") from error
    if not isinstance(metadata, dict):
        raise _refused("the sample's JSON is not an object", f"{shard}, sample {key}")
    return metadata


def labels_of(metadata: Mapping[str, Any], shard: str, key: str) -> dict[str, float | None]:
    """Read the labels in a sample's JSON, by task.

    Raises:
        CorruptDataError: They have another type.
    """
    labels = metadata.get("labels", {})
    if not isinstance(labels, dict):
        raise _refused("the sample's labels are not an object of numbers by task", f"{shard}, sample {key}")
    for task, value in labels.items():
        if value is not None and not (type(value) in _NUMBERS and abs(value) <= _LARGEST):
            text = repr(value) if not isinstance(value, int) or abs(value) <= _LARGEST else "of hundreds of digits"
            raise _refused(f"label {task} is {text}, not a finite number", f"{shard}, sample {key}")
    return labels


def transcript_of(metadata: Mapping[str, Any], shard: str, key: str) -> Transcript:
    """Read the transcript in a sample's JSON.

    Raises:
        CorruptDataError: It has another type.
    """
    transcript = metadata.get("transcript")
    if transcript is None:
        return ()
    if isinstance(transcript, str):
        return transcript
    if isinstance(transcript, list) and all(isinstance(word, str) for word in transcript):
        return tuple(word for word in transcript if word.strip())
    raise _refused("the sample's transcript is neither a text nor a list of words", f"{shard}, sample {key}")


def context_of(value: Any) -> tuple[ContextUtterance, ...]:
    """Read the `context` in a sample's JSON: a list of objects with `text`, and `speaker` where it is known.

    Empty for a value of any other form, which tars made elsewhere may have for another purpose.
    """
    if not isinstance(value, list):
        return ()
    context = []
    for each in value:
        text = each.get("text") if isinstance(each, dict) else None
        if not isinstance(text, str):
            return ()
        speaker = each.get("speaker")
        context.append(ContextUtterance(text, speaker if isinstance(speaker, str) else ""))
    return tuple(context)


def _refused(what: str, where: str) -> CorruptDataError:
    return CorruptDataError(what, where=where, remedy="correct the source and pack the split again")
