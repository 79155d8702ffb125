"""Format table: a JSONL file and .npy files become samples."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr_dist.corpora.card import load_card
from ivr_dist.corpora.registry import open_source, opener
from ivr_dist.corpora.source import Source
from ivr_dist.errors import DataError
from tests.corpora import round_trip
from tests.packed import members

CARD = """
name: films
description: Three clips.
citation: none
licence: none
format: table
files:
  samples: {path: samples.jsonl}
features:
  text: {set: pieces, dim: 1, kind: tokens}
  audio: {set: a3, dim: 3}
tasks:
  sentiment: {type: regression, low: -3, high: 3}
  funny: {type: classification, classes: 2}
splits:
  train: {samples: 2}
  test: {}
table:
  file: samples
"""

ROWS: list[dict[str, Any]] = [
    {
        "id": "clip.1",
        "split": "train",
        "group": "film 1",
        "labels": {"sentiment": 1.4, "funny": None},
        "transcript": "so\u2028good",
        "text": "text/1.npy",
        "audio": "audio/1.npy",
        "provenance": {"url": "film1"},
    },
    {"id": "clip.2", "split": "train", "labels": {"funny": 1}, "text": None},
    {"id": "clip.3", "split": "test", "audio": "audio/1.npy"},
]


def source(tmp_path: Path, rows: list[Any], card: str = CARD) -> Source:
    (tmp_path / "text").mkdir(exist_ok=True)
    (tmp_path / "audio").mkdir(exist_ok=True)
    np.save(tmp_path / "text" / "1.npy", np.array([5, 6, 7]))
    np.save(tmp_path / "audio" / "1.npy", np.ones((2, 3), np.float32))
    np.save(tmp_path / "audio" / "objects.npy", np.array([{}], object), allow_pickle=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "card.yaml").write_text(card)
    return open_source(str(tmp_path), load_card(str(tmp_path / "card.yaml")))


def changed(number: int, **changes: Any) -> list[dict[str, Any]]:
    return [row | changes if place == number else row for place, row in enumerate(ROWS)]


def test_lines_become_samples(tmp_path: Path) -> None:
    opened = source(tmp_path, [ROWS[0], "", *ROWS[1:]])
    first, second = (opened.load("train", ref) for ref in opened.splits()["train"])
    (third,) = (opened.load("test", ref) for ref in opened.splits()["test"])
    assert (first.id, first.group, first.transcript) == ("clip.1", "film 1", "so\u2028good")
    assert first.labels == {"sentiment": 1.4, "funny": None}
    assert first.arrays["text"].tolist() == [5, 6, 7]
    assert first.arrays["audio"].shape == (2, 3)
    assert first.provenance == {"url": "film1", "file": "samples.jsonl", "line": 1, "group": "film 1"}
    assert second.labels == {"sentiment": None, "funny": 1}
    assert dict(second.arrays) == {}
    assert third.provenance["line"] == 4
    assert list(third.arrays) == ["audio"]


def test_a_width_that_the_card_leaves_open_is_read(tmp_path: Path) -> None:
    assert source(tmp_path, ROWS, CARD.replace("a3, dim: 3", "a3")).features["audio"].dim == 3
    with pytest.raises(DataError, match=r"no sample has audio.*remove features\.audio"):
        source(tmp_path, changed(0, audio=None)[:2], CARD.replace("a3, dim: 3", "a3"))


def test_splits_listed_by_group(tmp_path: Path) -> None:
    card = CARD.replace("train: {samples: 2}", "train: {groups: [a]}").replace("test: {}", "test: {groups: [b]}")
    opened = source(tmp_path, [{"id": "1", "group": "b"}, {"id": "2", "group": "a"}], card)
    assert [ref.id for ref in opened.splits()["train"]] == ["2"]
    with pytest.raises(DataError, match=r"group c is in no split.*line 1"):
        source(tmp_path, [{"id": "1", "group": "c"}], card)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{", *ROWS], r"not JSON.*line 1"),
        (["[]", *ROWS], r"not a JSON object.*line 1"),
        (changed(1, transcrpt="x"), r"unknown key transcrpt.*line 2.*did you mean transcript"),
        (changed(1, id=""), r"no id.*line 2"),
        (changed(1, id=7), r"key id is not a text"),
        (changed(1, labels=[1]), r"key labels is not an object"),
        (changed(1, labels={"funny": "yes"}), r"label funny is not a number"),
        (changed(1, labels={"funny": True}), r"label funny is not a number"),
        (changed(1, vision="x.npy"), r"vision is not among the card's features"),
        (changed(1, split="dev"), r"unknown split 'dev'.*line 2"),
        (changed(1, id="clip.1"), r"clip.1 is given twice"),
        (changed(2, group="film 1"), r"group film 1 is in the splits train and test"),
        (changed(2, audio="../1.npy"), r"'../1.npy' leads out of the corpus.*line 3"),
        (changed(2, audio="http://127.0.0.1:9/1.npy"), r"leads out of the corpus.*line 3"),
        (ROWS[1:], r"split train has 1 samples, the card expects 2"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        source(tmp_path, rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": "audio/2.npy"}, r"no such file.*audio/2.npy.*line 1"),
        ({"audio": "samples.jsonl"}, r"not a .npy file.*line 1"),
        ({"audio": "audio/objects.npy"}, r"arrays of Python objects"),
        ({"labels": {"sentiment": 3.4}}, r"sentiment is 3.4, outside -3..3.*line 1"),
        ({"labels": {"funny": 2}}, r"funny is 2, not a class 0..1"),
        ({"labels": {"funny": 0.5}}, r"funny is 0.5, not a class 0..1"),
        ({"labels": {"fun": 1}}, r"'fun' belongs to no task"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    opened = source(tmp_path, changed(0, **change))
    with pytest.raises(DataError, match=message):
        opened.load("train", opened.splits()["train"][0])


def test_another_process_opens_the_same_corpus_as_long_as_its_files_are_the_same(tmp_path: Path) -> None:
    opened = source(tmp_path, ROWS)
    card = load_card(str(tmp_path / "card.yaml"))
    first = opener(str(tmp_path), card, opened)
    again = pickle.loads(pickle.dumps(first))
    assert again().splits() == opened.splits()
    assert again.fingerprint == first.fingerprint == opener(str(tmp_path), card, opened).fingerprint
    seen = {first.fingerprint}
    for name in ("text/1.npy", "audio/1.npy", "samples.jsonl"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes())
        seen.add(opener(str(tmp_path), card, opened).fingerprint)
    seen.add(opener(str(tmp_path), replace(card, licence="another"), opened).fingerprint)
    assert len(seen) == 5


def opened_with(tmp_path: Path, table: bytes) -> Source:
    source(tmp_path, ROWS)
    (tmp_path / "samples.jsonl").write_bytes(table)
    return open_source(str(tmp_path), load_card(str(tmp_path / "card.yaml")))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_tables_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    rows = changed(0, transcript="\u5f88\u597d")
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    found = opened_with(tmp_path, text.encode(encoding))
    assert found.load("train", found.splits()["train"][0]).transcript == "\u5f88\u597d"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            json.dumps(ROWS[0]).encode() + b"\n" + '{"id": "\u5f88"}'.encode("gbk"),
            r"line 2 is not UTF-8 text: byte 0xba",
        ),
        (b'{"id": "caf\xe9"}', r"line 1 is not UTF-8 text: byte 0xe9"),
        ('{"id": "a"}'.encode("utf-16-le"), r"UTF-16 without a byte order mark"),
        (b"\x1f\x8b\x08", r"compressed with gzip, not a JSONL file"),
        (b"<!doctype html>", r"a web page"),
        (b"", r"an empty file"),
        (b"\n \n", r"nothing but blanks"),
    ],
)
def test_tables_that_are_something_else(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened_with(tmp_path, data)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "a", "id": "b"}', r"key 'id' is given twice.*line 1"),
        ('{"id": "a", "provenance": ' + "[" * 100_000, r"nested more than 100 deep.*line 1"),
        ('{"id": "a", "audio": "\\ud800.npy"}', r"key audio is not the name of a file"),
        ('{"id": "a", "audio": "a\\u0000b"}', r"key audio is not the name of a file"),
        ('{"id": NaN}', r"key id is not a text"),
        ('{"id": " ", "split": "test"}', r"has no id"),
    ],
)
def test_what_json_allows_and_a_table_does_not(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        source(tmp_path, [row, *ROWS])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ('{"sentiment": 1' + "0" * 400 + "}", r"a whole number of hundreds of digits, outside -3..3.*line 1"),
        ('{"funny": 1' + "0" * 400 + "}", r"a whole number of hundreds of digits, not a class"),
        ('{"sentiment": 1e999}', r"sentiment is inf, outside"),
        ('{"funny": -Infinity}', r"funny is -inf, not a class"),
    ],
)
def test_labels_beyond_all_bounds_are_refused(tmp_path: Path, label: str, message: str) -> None:
    first = json.dumps(ROWS[0] | {"labels": 0}).replace('"labels": 0', f'"labels": {label}')
    opened = source(tmp_path, [first, *ROWS[1:]])
    with pytest.raises(DataError, match=message):
        opened.load("train", opened.splits()["train"][0])


def test_nan_means_a_missing_value(tmp_path: Path) -> None:
    nan = float("nan")
    rows = changed(0, transcript=nan, group=nan, labels={"sentiment": nan}, provenance={"start": nan, "at": [nan, 1]})
    _, found = round_trip(source(tmp_path, rows), tmp_path / "out")
    sample = found["train"]["clip.1"]
    assert sample.words == () and sample.labels == {"sentiment": None, "funny": None}
    (tar,) = (tmp_path / "out" / "train").glob("*000000.tar")
    abouts = [json.loads(content) for name, content in members(tar) if name.endswith(".json")]
    (about,) = (each for each in abouts if each["id"] == "clip.1")
    assert about["provenance"] == {"start": None, "at": [None, 1], "file": "samples.jsonl", "line": 1}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 3), complex), r"complex numbers \(<c16\) are not read.*odd\.npy"),
        (np.full((2, 3), "7"), r"an array of text \(<U1\), not numbers.*odd\.npy"),
        (np.full((2, 3), b"7"), r"an array of text \(\|S1\), not numbers"),
        (np.zeros((2, 3), "M8[s]"), r"arrays of dates"),
        (np.zeros((2, 3), "V4"), r"arrays of raw bytes"),
        (np.zeros(2, [("a", "f4")]), r"arrays of records"),
        (np.array(1.0), r"a single value"),
    ],
)
def test_arrays_that_are_no_numbers_are_refused(tmp_path: Path, array: Any, message: str) -> None:
    opened = source(tmp_path, changed(0, audio="odd.npy"))
    np.save(tmp_path / "odd.npy", array)
    with pytest.raises(DataError, match=message):
        opened.load("train", opened.splits()["train"][0])


@pytest.mark.parametrize(
    ("values", "rounded", "replaced"),
    [
        (np.full((2, 3), 2**53 + 1), 6, 0),
        (np.full((2, 3), 2**64 - 1, np.uint64), 6, 0),
        (np.full((2, 3), 2**24 + 1, np.int32), 6, 0),
        (np.full((2, 3), 2**24), 0, 0),
        (np.full((2, 3), 300, np.int16), 0, 0),
        (np.full((2, 3), 1e39), 0, 6),
        (np.full((2, 3), 1.5, ">f8"), 0, 0),
        (np.full((2, 3), 1.5, np.longdouble), 0, 0),
        (np.full((2, 3), True), 0, 0),
    ],
)
def test_numbers_that_the_stored_type_cannot_hold_are_counted(
    tmp_path: Path, values: Any, rounded: int, replaced: int
) -> None:
    opened = source(tmp_path, changed(0, audio="odd.npy"))
    np.save(tmp_path / "odd.npy", values)
    summary, found = round_trip(opened, tmp_path / "out")
    train = summary.splits[0]
    assert (train.rounded.get("audio", 0), train.replaced.get("audio", 0)) == (rounded, replaced)
    stored = found["train"]["clip.1"].arrays["audio"]
    assert stored.dtype == np.float32 and (replaced or np.array_equal(stored, values.astype(np.float32)))
