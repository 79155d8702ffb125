"""Format arrays: flat arrays become samples."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr_dist.corpora.card import load_card
from ivr_dist.corpora.formats.arrays import ArraysSource
from ivr_dist.corpora.source import SourceSample
from ivr_dist.errors import DataError

CARD = """
name: tiny
description: Six utterances of three videos.
citation: none
licence: none
format: arrays
files:
  main: {path: main.npz}
  glove: {path: glove.npz}
  other: {path: deep/other.npz}
features:
  text: {set: glove2, dim: 2}
  audio: {set: a3, dim: 3}
  vision: {set: v2, dim: 2}
tasks:
  sentiment: {type: regression, low: -3, high: 3}
  joy: {type: classification, classes: 3}
splits:
  train: {samples: 4}
  test: {samples: 2}
arrays:
  file: main
  id: segment
  group: video
  split: split
  labels:
    sentiment: {array: label}
    joy: {file: other, join: ids, array: joy}
  transcript: {array: words, offset: offset}
  text: {array: word_id, offset: offset, lookup: {file: glove, array: vectors}}
  audio: {file: other, join: ids, array: vector}
  vision: {array: frames, offset: frame_offset}
"""

IDS = ["v1_2", "v1_1", "v2_1", "v2_2", "v3_1", "v3_2"]


def corpus(**changes: Any) -> dict[str, dict[str, Any]]:
    """The files; `main__label=[...]` replaces an array, None removes it."""
    files: dict[str, dict[str, Any]] = {
        "main": {
            "segment": np.array(IDS),
            "video": np.array(["v1", "v1", "v2", "v2", "v3", "v3"]),
            "split": np.array(["train"] * 4 + ["test"] * 2),
            "label": np.array([2.4, -3, 0, 0.2, 1, np.nan], np.float32),
            "words": np.array(["a", "b", "c", "a", "d"]),
            "word_id": np.array([0, 1, 2, 0, 3], np.int32),
            "offset": np.array([0, 2, 2, 3, 3, 4, 5]),
            "frames": np.arange(14, dtype=np.float32).reshape(7, 2),
            "frame_offset": np.array([0, 1, 2, 3, 4, 5, 7]),
            "index": np.array([1, 0, 0, 1, 0, 1]),
        },
        "glove": {"vectors": np.array([[0, 0], [1, 10], [2, 20], [3, 30]], np.float32)},
        "deep/other": {
            "ids": np.array(["v3_1", "v9_9", "v1_1", "v1_2", "v2_2", "v3_2"]),
            "vector": np.arange(18, dtype=np.float64).reshape(6, 3),
            "joy": np.array([2, 1, 0, 1, 2, 0]),
        },
    }
    for name, value in changes.items():
        file, _, array = name.partition("__")
        files[file.replace("other", "deep/other")][array] = value
    return files


def source(tmp_path: Path, card: str = CARD, **changes: Any) -> ArraysSource:
    (tmp_path / "deep").mkdir()
    for name, arrays in corpus(**changes).items():
        np.savez(tmp_path / f"{name}.npz", **{key: value for key, value in arrays.items() if value is not None})
    (tmp_path / "card.yaml").write_text(card)
    return ArraysSource(str(tmp_path), load_card(str(tmp_path / "card.yaml")))


def samples(source: ArraysSource) -> dict[str, SourceSample]:
    return {ref.id: source.load(split, ref) for split, refs in source.splits().items() for ref in refs}


def test_sequences_lookups_and_joins(tmp_path: Path) -> None:
    opened = source(tmp_path)
    assert {split: [ref.id for ref in refs] for split, refs in opened.splits().items()} == {
        "train": IDS[:4],
        "test": IDS[4:],
    }
    found = samples(opened)
    first = found["v1_2"]
    assert first.arrays["text"].tolist() == [[0, 0], [1, 10]]
    assert first.arrays["audio"].tolist() == [[9, 10, 11]]
    assert first.arrays["vision"].tolist() == [[0, 1]]
    assert first.transcript == "a b"
    assert first.group == "v1"
    assert first.provenance == {"file": "main.npz", "row": 0, "group": "v1"}
    assert found["v3_2"].arrays["vision"].shape == (2, 2)


def test_samples_without_steps_stay(tmp_path: Path) -> None:
    found = samples(source(tmp_path))
    assert len(found["v1_1"].arrays["text"]) == 0
    assert found["v1_1"].transcript == ""
    assert len(found["v2_1"].arrays["audio"]) == 0  # the other file does not know it


def test_labels_are_the_decimal_numbers_that_were_meant(tmp_path: Path) -> None:
    found = samples(source(tmp_path))
    assert found["v1_2"].labels == {"sentiment": 2.4, "joy": 1}
    assert found["v2_1"].labels == {"sentiment": 0.0, "joy": None}
    assert found["v3_2"].labels == {"sentiment": None, "joy": 0}


def test_context_is_newest_first_within_the_group(tmp_path: Path) -> None:
    # Videos of 5 and 1 utterances, stored out of order; up to 2 before.
    card = CARD.replace("  vision: {array: frames, offset: frame_offset}", "  vision: {array: pooled}")
    card += "  context: {order: index, before: 2}\n"
    card = card.replace("{samples: 4}", "{samples: 5}").replace("{samples: 2}", "{samples: 1}")
    opened = source(
        tmp_path,
        card,
        main__video=np.array(["v1"] * 5 + ["v3"]),
        main__split=np.array(["train"] * 5 + ["test"]),
        main__index=np.array([30, 10, 20, 50, 40, 7]),
        main__pooled=np.arange(12, dtype=np.float32).reshape(6, 2),
    )
    found = samples(opened)
    newest = {id_: sample.arrays["vision"][:, 0].tolist() for id_, sample in found.items()}
    assert newest == {
        "v1_1": [2],
        "v2_1": [4, 2],
        "v1_2": [0, 4, 2],
        "v3_1": [8, 0, 4],
        "v2_2": [6, 8, 0],
        "v3_2": [10],
    }
    assert found["v2_1"].arrays["text"].tolist() == [[2, 20]]  # nothing before it has words
    assert found["v3_1"].transcript == "a"  # its own words only


def test_splits_listed_by_group(tmp_path: Path) -> None:
    card = CARD.replace("{samples: 4}", "{groups: [v3, v1]}").replace("{samples: 2}", "{samples: 2, groups: [v2]}")
    opened = source(tmp_path, card.replace("  split: split\n", ""), main__split=None)
    assert [ref.id for ref in opened.splits()["test"]] == ["v2_1", "v2_2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"main__segment": np.array(["v1_2"] * 2 + IDS[2:])}, "sample id v1_2 is given twice"),
        ({"main__split": np.array(["train"] * 3 + ["test"] * 3)}, "group v2 is in the splits train and test"),
        ({"main__split": np.array(["train"] * 2 + ["test"] * 4)}, "split train has 2 samples, the card expects 4"),
        ({"main__split": np.array(["train"] * 4 + ["dev"] * 2)}, "unknown split 'dev'"),
        ({"main__label": None}, "no array label.*it has: segment"),
        ({"main__label": np.zeros(5)}, "array label has 5 rows for 6 samples"),
        ({"main__words": np.array(["a"], object)}, "arrays of Python objects .* are not read"),
        ({"main__offset": np.array([0, 2, 1, 3, 3, 4, 5])}, "offsets must rise"),
        ({"main__offset": np.array([0, 2, 2, 3, 3, 4, 6])}, "offsets must rise from 0 to 5"),
        ({"main__word_id": np.array([0, 1, 2, 0, 4])}, r"ids 0..3"),
        ({"main__word_id": np.array([0, 1, 2, 0, -1])}, r"ids 0..3"),
        ({"other__ids": np.array(list("abcdef"))}, "check join"),
        ({"other__ids": np.array(["v1_1"] * 6)}, "given twice"),
        ({"main__frames": np.zeros((7, 0))}, "vision has 0 features a step"),
        ({"main__frames": np.zeros((7, 3, 2))}, r"array frames is \[7, 3, 2\], not \[steps, features\], for vision"),
        ({"glove__vectors": np.zeros(4)}, r"array vectors is \[4\], not \[steps, features\], for text"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        source(tmp_path, **changes)


@pytest.mark.parametrize(
    "order", [np.zeros((6, 1)), np.array([1, 0, 0, np.nan, 0, 1]), np.array(list("baabab")), np.array([1, 0, 0])]
)
def test_an_order_is_one_number_a_sample(tmp_path: Path, order: Any) -> None:
    card = CARD + "  context: {order: index, before: 2}\n"
    with pytest.raises(DataError, match=r"not one finite number for each of 6 samples.*array index"):
        source(tmp_path, card, main__index=order)


def test_a_label_of_several_values_is_refused_by_sample(tmp_path: Path) -> None:
    opened = source(tmp_path, main__label=np.zeros((6, 2)))
    with pytest.raises(DataError, match=r"2 values \(main.npz, sample v1_2, label sentiment\)"):
        opened.load("train", opened.splits()["train"][0])


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    opened = source(tmp_path, main__label=np.array([3.2, 0, 0, 0, 0, 0]))
    with pytest.raises(DataError, match=r"sentiment is 3.2, outside -3..3.*sample v1_2"):
        opened.load("train", opened.splits()["train"][0])


def test_two_utterances_with_one_number_have_no_order(tmp_path: Path) -> None:
    card = CARD + "  context: {order: index, before: 2}\n"
    with pytest.raises(DataError, match="two samples of group v2 have the number 0"):
        source(tmp_path, card, main__index=np.array([1, 0, 0, 0, 0, 1]))


def test_checksums_are_checked(tmp_path: Path) -> None:
    np.savez(tmp_path / "glove.npz", **corpus()["glove"])
    right = hashlib.sha256((tmp_path / "glove.npz").read_bytes()).hexdigest()
    source(tmp_path, CARD.replace("{path: glove.npz}", f"{{path: glove.npz, sha256: {right}}}"))
    card = CARD.replace("{path: glove.npz}", f"{{path: glove.npz, sha256: {'f' * 64}}}")
    (tmp_path / "card.yaml").write_text(card)
    with pytest.raises(DataError, match=r"differs from the one that the card describes .sha256.*glove.npz"):
        ArraysSource(str(tmp_path), load_card(str(tmp_path / "card.yaml")))


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    source(tmp_path)
    card = load_card(str(tmp_path / "card.yaml"))
    (tmp_path / "glove.npz").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"not an \.npz"):
        ArraysSource(str(tmp_path), card)
    (tmp_path / "glove.npz").unlink()
    with pytest.raises(DataError, match=r"missing.*glove.npz"):
        ArraysSource(str(tmp_path), card)


RECORDS_CARD = """
name: tiny
description: Three utterances as JSON records, without features of text.
citation: none
licence: none
format: arrays
files:
  main: {path: segments.json}
  other: {path: other.npz}
features:
  audio: {set: a3, dim: 3}
tasks:
  sentiment: {type: regression, low: -3, high: 3}
splits:
  train: {samples: 2}
  test: {samples: 1}
arrays:
  file: main
  id: id
  group: video
  split: split
  labels:
    sentiment: {array: label}
  transcript: {array: text}
  audio: {file: other, join: ids, array: vector}
"""


def records(tmp_path: Path, rows: Any) -> ArraysSource:
    np.savez(tmp_path / "other.npz", ids=np.array(["b", "a"]), vector=np.arange(6.0).reshape(2, 3))
    (tmp_path / "segments.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    (tmp_path / "card.yaml").write_text(RECORDS_CARD)
    return ArraysSource(str(tmp_path), load_card(str(tmp_path / "card.yaml")))


def record(id_: str, **changes: Any) -> dict[str, Any]:
    split = "test" if id_ == "c" else "train"
    return {"id": id_, "video": f"v{id_}", "split": split, "label": 2.4, "text": f"it IS  {id_}", "start": 1} | changes


def test_records_of_a_json_file_are_arrays(tmp_path: Path) -> None:
    found = samples(records(tmp_path, [record("a"), record("b", label=-3), record("c", text="")]))
    assert {id_: sample.transcript for id_, sample in found.items()} == {"a": "it IS  a", "b": "it IS  b", "c": ""}
    assert [sample.labels["sentiment"] for sample in found.values()] == [2.4, -3.0, 2.4]
    assert found["a"].arrays["audio"].tolist() == [[3.0, 4.0, 5.0]]
    assert len(found["c"].arrays["audio"]) == 0
    missing = samples(records(tmp_path, [record("a", text=None), record("b", label=None), record("c")]))
    assert missing["a"].transcript == "" and missing["b"].labels["sentiment"] is None
    unknown = samples(records(tmp_path, [record(id_, label=None, text=None) for id_ in "abc"]))
    assert {(sample.transcript, sample.labels["sentiment"]) for sample in unknown.values()} == {("", None)}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("[{", "not a JSON file"),
        ({"id": "a"}, "not a JSON list of objects"),
        ([], "not a JSON list of objects"),
        ([record("a"), record("b") | {"more": 1}], "object 1 of the list does not have the same keys"),
        ([record("a"), record("b"), record("c", text=3)], "array text mixes texts and numbers"),
        ([record("a"), record("b"), record("c", label=True)], "array label mixes texts and numbers"),
        (
            [record("a"), record("b"), record("c", label=10**400)],
            "array label holds whole numbers of more than 64 bits",
        ),
        (
            [record("a", label=2**64), record("b", label=-(2**63) - 1), record("c")],
            "whole numbers of more than 64 bits",
        ),
        ([record("a"), record("b") | {"id": None}, record("c")], "a sample of split train has no id"),
        ("[" * 200_000, "nested more than 100 deep"),
        ('[{"id": "a", "id": "b"}]', "key 'id' is given twice"),
        ([{"id": "a"}], "no array video"),
    ],
)
def test_json_files_that_are_no_records_are_refused(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        records(tmp_path, rows)
