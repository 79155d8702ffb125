"""Format mmsa: pickles of MMSA are packed exactly, without their padding."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr_dist import storage
from ivr_dist.corpora.card import load_card
from ivr_dist.corpora.registry import open_source
from ivr_dist.corpora.source import Source
from ivr_dist.errors import DataError
from tests.corpora import open_corpus, round_trip, same_bits, write_pickle

CARD = """
name: clips
description: Clips.
citation: none
licence: none
format: mmsa
files:
  data: {path: data.pkl}
features:
  text: {set: bert, dim: 4}
  audio: {set: covarep}
  vision: {set: facet, dim: 2}
tasks:
  sentiment: {type: regression, low: -1, high: 1, scale: sims}
  sentiment_text: {type: regression, low: -1, high: 1, scale: sims}
splits:
  train: {samples: 7}
  valid: {samples: 2}
  test: {samples: 3}
mmsa:
  file: data
  labels: {sentiment: regression_labels, sentiment_text: regression_labels_T}
"""
TOKENS = CARD.replace("{set: bert, dim: 4}", "{set: pieces, kind: tokens}").replace(
    "  file: data\n", "  file: data\n  text: text_bert\n"
)
COUNTS = {"train": 7, "valid": 2, "test": 3}
STEPS = 6


def sequence(random: np.random.Generator, steps: int, width: int, total: int) -> Any:
    """[total, width] of which the first `steps` are not padding; some inner steps and values are zero."""
    rows = np.zeros((total, width), np.float32)
    rows[:steps] = random.normal(size=(steps, width))
    rows[1:2, :] = 0 if steps > 3 else rows[1:2, :]
    return rows


def corpus(aligned: bool) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The content of the pickle, and by id what must be in the shards."""
    random = np.random.default_rng(3)
    content, expected = {}, {}
    totals = {"text": STEPS, "audio": STEPS if aligned else 9, "vision": STEPS if aligned else 5}
    widths = {"text": 4, "audio": 3, "vision": 2}
    for split, count in COUNTS.items():
        part: dict[str, list[Any]] = {name: [] for name in ("id", "raw_text", "text_bert", "audio_lengths", *widths)}
        part["vision_lengths"] = []
        for number in range(count):
            words = int(random.integers(1, STEPS + 1))
            own = {"text": words, "audio": words if aligned else int(random.integers(1, 10)), "vision": words}
            own["vision"] = words if aligned else int(random.integers(1, 6))
            arrays = {name: sequence(random, own[name], widths[name], totals[name]) for name in widths}
            if number == 1:
                arrays["vision"][:] = 0
            if number == 2:
                arrays["audio"][0, 0] = -np.inf
            ids = np.zeros((3, STEPS), np.int64)
            ids[0, :words], ids[1, :words] = random.integers(100, 200, words), 1
            id_ = f"{split}-v_{number // 2}$_${number}"
            for name, value in (arrays | {"text_bert": ids, "id": id_, "raw_text": f"clip {number}\u4e2d"}).items():
                part[name].append(value)
            part["audio_lengths"].append(own["audio"])
            part["vision_lengths"].append(own["vision"])
            kept = {name: rows[: own[name]].copy() for name, rows in arrays.items() if rows.any()}
            kept["audio"][~np.isfinite(kept["audio"])] = 0
            expected[id_] = {"arrays": kept, "ids": ids[0, :words], "split": split, "text": f"clip {number}\u4e2d"}
        content[split] = {name: np.array(values) for name, values in part.items()}
        content[split]["raw_text"] = content[split]["raw_text"].astype(object)
        for name in ("audio_lengths", "vision_lengths"):
            content[split][name] = content[split][name].tolist()
            if aligned:
                del content[split][name]
        labels = random.uniform(-1, 1, (2, count)).astype(np.float32)
        content[split] |= {"regression_labels": labels[0], "regression_labels_T": labels[1][:, None]}
        # Files hold more than is read, also of other lengths.
        content[split] |= {"annotations": np.array(["Neutral"] * count), "seed": np.array([1, 2, 3, 4])}
        for number, id_ in enumerate(content[split]["id"].tolist()):
            expected[id_]["labels"] = {"sentiment": labels[0][number], "sentiment_text": labels[1][number]}
    return content, expected


def opened(tmp_path: Path, content: Any, card: str = CARD, protocol: int = 4) -> Source:
    write_pickle(tmp_path / "data.pkl", content, protocol)
    return open_corpus(tmp_path, card)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_sample_comes_back(tmp_path: Path, aligned: bool, protocol: int) -> None:
    content, expected = corpus(aligned)
    source = opened(tmp_path, content, protocol=protocol)
    assert {name: spec.dim for name, spec in source.features.items()} == {"text": 4, "audio": 3, "vision": 2}
    summary, found = round_trip(source, tmp_path / "out")
    assert {split: set(samples) for split, samples in found.items()} == {
        split: {id_ for id_, sample in expected.items() if sample["split"] == split} for split in COUNTS
    }
    for samples in found.values():
        for id_, sample in samples.items():
            assert same_bits(sample.arrays, expected[id_]["arrays"]), id_
            assert {name: np.float32(label) for name, label in sample.labels.items()} == expected[id_]["labels"]
            assert sample.transcript == expected[id_]["text"]
    assert [split.missing for split in summary.splits] == [{"vision": 1}] * 3
    assert [split.replaced for split in summary.splits] == [{"audio": 1}, {}, {"audio": 1}]
    assert summary.dropped == ()


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_word_pieces_are_those_of_the_mask(tmp_path: Path, dtype: type) -> None:
    content, expected = corpus(aligned=False)
    for part in content.values():
        part["text_bert"] = part["text_bert"].astype(dtype)
        del part["text"]
    _, found = round_trip(opened(tmp_path, content, TOKENS), tmp_path / "out")
    for samples in found.values():
        for id_, sample in samples.items():
            wanted = {**expected[id_]["arrays"], "text": expected[id_]["ids"]}
            assert same_bits(sample.arrays, wanted), id_


def test_the_group_is_the_video(tmp_path: Path) -> None:
    content, _ = corpus(aligned=True)
    source = opened(tmp_path, content)
    assert [ref.group for ref in source.splits()["test"]] == ["test-v_0", "test-v_0", "test-v_1"]
    content["test"]["id"][0] = "train-v_0$_$9"
    with pytest.raises(DataError, match="group train-v_0 is in the splits train and test"):
        opened(tmp_path, content)
    content["test"]["id"][0] = "clip9"
    with pytest.raises(DataError, match=r"id clip9 does not contain \$_\$"):
        opened(tmp_path, content)
    free = opened(tmp_path, content, CARD.replace("  file: data\n", "  file: data\n  separator: ''\n"))
    assert {ref.group for ref in free.splits()["test"]} == {None}


def test_aligned_modalities_are_cut_alike_and_only_zeros_are_cut(tmp_path: Path) -> None:
    content, expected = corpus(aligned=True)
    id_ = "test-v_0$_$0"
    words = len(expected[id_]["ids"])
    # Vision ends one step before the text, and audio goes on beyond the mask.
    content["test"]["vision"][0, words - 1] = 0
    content["test"]["audio"][0, 5] = 1
    _, found = round_trip(opened(tmp_path, content), tmp_path / "out")
    assert same_bits(
        found["test"][id_].arrays, {name: content["test"][name][0, :6] for name in ("text", "audio", "vision")}
    )


def test_without_a_mask_zeros_are_padding(tmp_path: Path) -> None:
    content, expected = corpus(aligned=False)
    for part in content.values():
        del part["text_bert"]
    _, found = round_trip(opened(tmp_path, content), tmp_path / "out")
    for samples in found.values():
        for id_, sample in samples.items():
            assert same_bits(sample.arrays, expected[id_]["arrays"]), id_


@pytest.mark.parametrize("aligned", [True, False])
def test_padding_at_the_front(tmp_path: Path, aligned: bool) -> None:
    content, expected = corpus(aligned)
    for part in content.values():
        for name in ("audio", "vision", "text", "text_bert") if aligned else ("audio", "vision"):
            array = part[name]
            for number, id_ in enumerate(part["id"]):
                own = expected[id_]["arrays"].get(name)
                shift = 0 if own is None else array.shape[1] - len(own)
                if name == "text_bert":
                    array[number] = np.roll(array[number], STEPS - len(expected[id_]["ids"]), axis=1)
                else:
                    array[number] = np.roll(array[number], shift, axis=0)
    front = CARD.replace("  file: data\n", "  file: data\n  padding: front\n")
    _, found = round_trip(opened(tmp_path, content, front), tmp_path / "out")
    for samples in found.values():
        for id_, sample in samples.items():
            assert same_bits(sample.arrays, expected[id_]["arrays"]), id_
    if not aligned:
        with pytest.raises(DataError, match=r"does not look padded at the end.*mmsa\.padding"):
            round_trip(opened(tmp_path, content), tmp_path / "other")


def test_samples_without_labels_are_packed(tmp_path: Path) -> None:
    content, _ = corpus(aligned=True)
    del content["test"]["regression_labels"], content["test"]["regression_labels_T"]
    content["valid"]["regression_labels"][0] = np.nan
    summary, found = round_trip(opened(tmp_path, content), tmp_path / "out")
    unlabelled = {split.split: split.unlabelled for split in summary.splits}
    assert unlabelled == {"train": {}, "valid": {"sentiment": 1}, "test": {"sentiment": 3, "sentiment_text": 3}}
    assert all(label is None for sample in found["test"].values() for label in sample.labels.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("valid"), r"has the splits train, test, the card train, valid, test"),
        (lambda c: c["test"].pop("audio"), r"no array audio.*split test.*it has: id,"),
        (
            lambda c: [part.pop("regression_labels_T") for part in c.values()],
            r"no split has an array regression_labels_T",
        ),
        (
            lambda c: c["test"].update(vision=c["test"]["vision"][:2]),
            r"array vision: 2 entries for 3 samples.*split test",
        ),
        (
            lambda c: c["test"].update(vision=c["test"]["vision"][:, :, :1]),
            r"array vision has 1 features here and 2 in another split",
        ),
        (
            lambda c: c["test"].update(audio=c["test"]["audio"][:, 0]),
            r"array audio: not an array \[samples, steps, feat",
        ),
        (lambda c: c["test"].update(vision=c["test"]["vision"][:, :3]), r"not aligned: text 6, audio 6, vision 3"),
        (lambda c: c["test"].update(audio_lengths=[1, 2, 3]), r"lengths are given, but not vision_lengths"),
        (lambda c: c["test"].update(id=["a$_$1"] * 2), r"array id: 2 entries for 3 samples"),
        (lambda c: c["test"].update(id=[1.5, None, 2]), r"array id: row 1: None where a text should be"),
        (lambda c: c["test"].update(regression_labels=["a"] * 3), r"regression_labels: not a list of numbers"),
        (lambda c: c["test"].update(regression_labels=np.ones((3, 2))), r"regression_labels: \[3, 2\], not one number"),
        (lambda c: c["test"].update(text_bert=c["test"]["text_bert"][:, :2]), r"text_bert is \[3, 2, 6\]"),
        (lambda c: c.update(test=[]), r"split test is not a dictionary of arrays"),
    ],
)
def test_pickles_that_do_not_fit_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    content, _ = corpus(aligned=True)
    change(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path, content)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("regression_labels", 1.5, r"label sentiment is 1.5, outside -1..1.*test-v_0"),
        ("audio_lengths", 10, r"audio: it has 9 steps, its length says 10"),
        ("audio_lengths", -1, r"audio: it has 9 steps, its length says -1"),
        ("text_bert", np.array([[5] * 6, [1, 0, 1, 0, 0, 0], [0] * 6]), r"the mask of text_bert has gaps"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    content, _ = corpus(aligned=False)
    content["test"][name][0] = value
    source = opened(tmp_path, content)
    with pytest.raises(DataError, match=message):
        source.load("test", source.splits()["test"][0])


def test_another_width_than_the_card_says_is_refused(tmp_path: Path) -> None:
    content, _ = corpus(aligned=True)
    with pytest.raises(DataError, match=r"text has 4 features a step, the card says 5"):
        opened(tmp_path, content, CARD.replace("dim: 4", "dim: 5"))


def test_splits_may_be_called_otherwise(tmp_path: Path) -> None:
    content, _ = corpus(aligned=True)
    content["dev"] = content.pop("valid")
    source = opened(tmp_path, content, CARD.replace("valid: {samples: 2}", "valid: {samples: 2, called: dev}"))
    assert [ref.id for ref in source.splits()["valid"]] == content["dev"]["id"].tolist()


def test_opening_reads_the_names_and_not_the_features(tmp_path: Path) -> None:
    content, _ = corpus(aligned=False)
    content["train"]["audio"] = np.random.default_rng(0).normal(size=(7, 20000, 3)).astype(np.float32)
    content["train"]["audio_lengths"] = [20000] * 7
    source = opened(tmp_path, content)
    data = bytearray((tmp_path / "data.pkl").read_bytes())
    start = data.index(content["train"]["audio"].tobytes())
    last = content["train"]["audio"][6].nbytes
    data[start + 6 * last : start + 7 * last] = np.ones((20000, 3), np.float32).tobytes()
    (tmp_path / "data.pkl").write_bytes(data)
    sixth, seventh = (source.load("train", source.splits()["train"][number]).arrays["audio"] for number in (5, 6))
    assert np.array_equal(sixth, content["train"]["audio"][5]) and np.array_equal(seventh, np.ones((20000, 3)))


def test_checksums_are_compared_and_files_may_be_anywhere(tmp_path: Path) -> None:
    content, _ = corpus(aligned=False)
    local = opened(tmp_path, content)
    data = (tmp_path / "data.pkl").read_bytes()
    storage.write_bytes("memory://mmsa/data.pkl", data)
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "card.yaml").write_text(CARD.replace("{path: data.pkl}", f"{{path: data.pkl, sha256: {digest}}}"))
    card = load_card(str(tmp_path / "card.yaml"))
    remote = open_source("memory://mmsa", card)
    assert remote.splits() == local.splits()
    ref = local.splits()["test"][2]
    assert same_bits(remote.load("test", ref).arrays, local.load("test", ref).arrays)
    storage.write_bytes("memory://mmsa/data.pkl", data[:-1] + b"!")
    with pytest.raises(DataError, match="differs from the one that the card describes"):
        open_source("memory://mmsa", card)


def test_cards_survive_a_process_and_open_to_the_same_samples(tmp_path: Path) -> None:
    content, _ = corpus(aligned=False)
    source = opened(tmp_path, content)
    card = pickle.loads(pickle.dumps(load_card(str(tmp_path / "card.yaml"))))
    again = open_source(str(tmp_path), card.verified())
    assert again.splits() == source.splits()
    for split, refs in source.splits().items():
        for ref in refs:
            assert same_bits(again.load(split, ref).arrays, source.load(split, ref).arrays)


def rolled(array: Any, steps: int) -> Any:
    """A row of [T, D] or [3, T] with its first `steps` steps at the end."""
    axis = 1 if array.shape[0] == 3 and array.shape[1] == STEPS else 0
    return np.roll(array, array.shape[axis] - steps, axis=axis)


@pytest.mark.parametrize("moved", [("text", "text_bert"), ("text",), ()])
@pytest.mark.parametrize("masked", [True, False])
def test_text_may_be_padded_at_either_end(tmp_path: Path, moved: tuple[str, ...], masked: bool) -> None:
    content, expected = corpus(aligned=False)
    for part in content.values():
        for number, id_ in enumerate(part["id"].tolist()):
            words = len(expected[id_]["ids"])
            for name in moved:
                part[name][number] = rolled(part[name][number], words)
            for name in ("audio", "vision"):
                part[name][number] = rolled(part[name][number], part[f"{name}_lengths"][number])
        if not masked:
            del part["text_bert"]
    front = CARD.replace("  file: data\n", "  file: data\n  padding: front\n")
    _, found = round_trip(opened(tmp_path, content, front), tmp_path / "out")
    for samples in found.values():
        for id_, sample in samples.items():
            assert same_bits(sample.arrays, expected[id_]["arrays"]), id_


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan")])
def test_missing_transcripts_are_empty_and_missing_ids_are_refused(tmp_path: Path, missing: Any) -> None:
    content, expected = corpus(aligned=True)
    content["train"]["raw_text"][2] = missing
    content["train"]["raw_text"][3] = "nan"
    source = opened(tmp_path, content)
    summary, found = round_trip(source, tmp_path / "out")
    spoken = [found["train"][id_].transcript for id_ in content["train"]["id"][1:4].tolist()]
    assert spoken == [expected[content["train"]["id"][1]]["text"], "", "nan"]
    assert any("1 samples have the transcript nan" in warning for warning in summary.splits[0].warnings)
    content["train"]["id"] = [missing, *content["train"]["id"][1:].tolist()]
    with pytest.raises(DataError, match=r"array id: row 0: (None|NaN) where a text should be"):
        opened(tmp_path, content)


def test_entries_that_cannot_be_are_named_by_their_sample(tmp_path: Path) -> None:
    content, _ = corpus(aligned=True)
    content["test"]["raw_text"][1] = b"caf\xe9"
    with pytest.raises(DataError, match=r"array raw_text: sample test-v_0\$_\$1: b'caf.*byte 0xe9"):
        opened(tmp_path, content)
    content["test"]["raw_text"] = ["x" * (1 << 22)] * 3
    with pytest.raises(DataError, match=r"array raw_text: 8388608 characters are repeated texts"):
        opened(tmp_path, content)


def test_entries_that_are_no_split_are_skipped_and_named(tmp_path: Path) -> None:
    content, _ = corpus(aligned=True)
    settings = {"audio": {"tool": "librosa"}, "text": {"model": "bert"}, "id": "x", "labels": ["a"]}
    source = opened(tmp_path, content | {"config": settings, "version": 2, "note": None})
    summary, _ = round_trip(source, tmp_path / "out")
    assert len(summary.notes) == 1 and "skipped, because it is not a split: config, version, note" in summary.notes[0]
    assert summary.warnings == list(summary.notes)
    for more in (content["test"], {"id": ["a$_$1"]}):
        with pytest.raises(DataError, match="has the splits train, valid, test, more, the card"):
            opened(tmp_path, content | {"more": more})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: part.update(audio=part["audio"].astype(complex)), r"complex numbers \(c16\) are not read"),
        (lambda part: part.update(audio=part["audio"].astype("U4")), r"array audio: .* of <U4, not numbers"),
        (lambda part: part.update(audio=part["audio"][:, :0]), r"array audio: \[3, 0, 3\] of float32"),
        (lambda part: part.update(regression_labels=[2**70] * 3), r"regression_labels: not numbers of 64 bits or less"),
        (lambda part: part.update(audio_lengths=[1.5] * 3), r"audio_lengths: row 0 is 1.5, not a whole number"),
        (lambda part: part.update(audio_lengths=[1, None, 2]), r"audio_lengths: row 1 is nan, not a whole number"),
    ],
)
def test_arrays_of_other_kinds_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    content, _ = corpus(aligned=False)
    change(content["test"])
    with pytest.raises(DataError, match=message):
        opened(tmp_path, content)
