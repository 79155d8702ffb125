"""Decoding one sample's tar members."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest

from ivr_dist.errors import CorruptDataError
from ivr_dist.shards.decode import RawSample, context_of, decode_sample
from ivr_dist.shards.tar import TarWriter

MODALITIES = ("text", "audio", "vision")
AUDIO = np.arange(6, dtype=np.float16).reshape(3, 2)
ABOUT = {"id": "video$_$7", "labels": {"sentiment": -1.2, "humor": None}, "transcript": "well", "provenance": {}}


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def as_json(**changes: object) -> bytes:
    return json.dumps({**ABOUT, **changes}).encode()


def tar(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out)
    for name, content in members:
        writer.add(name, content)
    return out.getvalue()


def decode(members: list[tuple[str, bytes]], key: str = "k1") -> RawSample:
    return decode_sample(tar(members), "mosi-train-000001.tar", key, MODALITIES)


def test_labels_arrays_and_names() -> None:
    tokens = np.array([5, 6], np.int32)
    sample = decode([("k1.audio.npy", npy(AUDIO)), ("k1.json", as_json()), ("k1.text.npy", npy(tokens))])
    assert (sample.key, sample.id) == ("k1", "video$_$7")
    assert sample.labels == {"sentiment": -1.2, "humor": None}
    assert set(sample.arrays) == {"audio", "text"}
    assert sample.arrays["audio"].dtype == np.float16
    np.testing.assert_array_equal(sample.arrays["audio"], AUDIO)
    np.testing.assert_array_equal(sample.arrays["text"], tokens)
    assert sample.where == "mosi-train-000001.tar, sample k1"


@pytest.mark.parametrize(
    ("transcript", "words"),
    [
        ("  so\tgood, it's\n", ("so", "good,", "it's")),
        ("", ()),
        (None, ()),
        (["New York", " ", "fine"], ("New York", "fine")),
    ],
)
def test_words_are_the_transcript_cut_at_white_space_or_its_list(transcript: object, words: tuple[str, ...]) -> None:
    assert decode([("k1.json", as_json(transcript=transcript))]).words == words


@pytest.mark.parametrize("transcript", [3, ["a", 1], {"a": "b"}])
def test_a_transcript_of_another_type_is_refused(transcript: object) -> None:
    with pytest.raises(CorruptDataError, match="transcript is neither a text nor a list of words"):
        decode([("k1.json", as_json(transcript=transcript))])


def test_only_the_requested_modalities_are_decoded() -> None:
    data = tar([("k1.audio.npy", npy(AUDIO)), ("k1.json", as_json()), ("k1.vision.npy", b"not an array")])
    assert set(decode_sample(data, "s", "k1", ["audio"]).arrays) == {"audio"}


def test_unknown_members_are_skipped() -> None:
    sample = decode([("k1.jpg", b"picture"), ("k1.json", as_json()), ("k1.txt", b"words")])
    assert sample.arrays == {}


def test_a_sample_written_by_others_in_pax_format() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("k1.json", b'{"id": "x"}'), ("k1.audio.npy", npy(AUDIO))):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5
            archive.addfile(info, io.BytesIO(content))
    sample = decode_sample(out.getvalue(), "s", "k1", MODALITIES)
    assert (sample.id, sample.labels) == ("x", {})
    np.testing.assert_array_equal(sample.arrays["audio"], AUDIO)


def test_without_an_id_the_key_is_the_id() -> None:
    assert decode([("k1.json", b"{}")]).id == "k1"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("k1.audio.npy", npy(AUDIO))], r"has no k1\.json"),
        ([("k2.json", as_json())], "does not hold this sample where its index says"),
        ([("k1.json", as_json()), ("k2.json", as_json())], "does not hold this sample"),
        ([], "does not hold this sample"),
        ([("k1.json", as_json()), ("k1.json", as_json())], "two members of the sample are named k1.json"),
        ([("k1.json", b"{")], "JSON cannot be read"),
        ([("k1.json", b"[" * 100_000)], "JSON cannot be read"),
        ([("k1.json", b"\xff\xfe\xfd")], "JSON cannot be read"),
        ([("k1.json", b"[1]")], "not an object"),
        ([("k1.json", as_json(labels=[1]))], "labels are not an object"),
        ([("k1.json", as_json(labels={"humor": "yes"}))], "label humor is 'yes', not a finite number"),
        ([("k1.json", as_json(labels={"humor": True}))], "label humor is True"),
        ([("k1.json", as_json(labels={"humor": float("nan")}))], "label humor is nan"),
        ([("k1.json", b'{"labels": {"humor": 1e999}}')], "label humor is inf"),
        ([("k1.json", b'{"labels": {"humor": 1%s}}' % (b"0" * 400))], "label humor is of hundreds of digits"),
        ([("k1.json", as_json()), ("k1.audio.npy", npy(AUDIO)[:-1])], r"audio\.npy"),
        ([("k1.json", as_json()), ("k1.audio.npy", b"RIFF")], r"audio\.npy"),
        ([("k1.json", as_json()), ("k1.audio.npy", npy(np.array([{}]), allow_pickle=True))], r"audio\.npy"),
        ([("k1.json", as_json()), ("k1.audio.npy", npy(np.float32(3.0)))], "audio is a single number"),
    ],
)
def test_damage_names_shard_sample_and_remedy(members: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(CorruptDataError, match=message) as caught:
        decode(members)
    text = str(caught.value)
    assert "mosi-train-000001.tar, sample k1" in text
    assert caught.value.remedy
    assert "\n" not in text


def test_bytes_cut_short_are_refused() -> None:
    data = tar([("k1.json", as_json()), ("k1.audio.npy", npy(AUDIO))])
    for cut in (100, 600, 1100, len(data) - 400):
        with pytest.raises(CorruptDataError, match="sample k1"):
            decode_sample(data[:cut], "s", "k1", MODALITIES)


@pytest.mark.parametrize(
    "content",
    [
        as_json(),
        json.dumps(ABOUT).encode("utf-16"),
        b"\xef\xbb\xbf" + as_json(),
        b" \n" + as_json() + b"\n",
        as_json(provenance={"lone": "\ud800", "count": 10**40, "unknown": float("nan")}),
    ],
    ids=["as packed", "utf-16", "byte order mark", "white space", "what Python alone reads"],
)
def test_json_of_other_programs(content: bytes) -> None:
    sample = decode([("k1.json", content)])
    assert (sample.id, sample.labels, sample.transcript) == (ABOUT["id"], ABOUT["labels"], "well")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + 400 * "0"])
def test_a_label_that_is_no_finite_number(number: str) -> None:
    with pytest.raises(CorruptDataError, match="not a finite number"):
        decode([("k1.json", b'{"id": "x", "labels": {"sentiment": ' + number.encode() + b"}}")])


@pytest.mark.parametrize(
    ("value", "context"),
    [
        ([{"text": "Hi.", "speaker": "Ann"}, {"text": "Oh?", "more": 1}], (("Hi.", "Ann"), ("Oh?", ""))),
        ([{"text": "Hi.", "speaker": ["Ann", "Bob"]}], (("Hi.", ""),)),
        # Tars made elsewhere may use the name for something else.
        *[(other, ()) for other in (None, [], "Hi.", ["Hi."], [{"speaker": "Ann"}], {"text": "Hi."}, 3)],
    ],
)
def test_context_is_a_list_of_utterances(value: object, context: tuple[tuple[str, str], ...]) -> None:
    assert context_of(value) == context
