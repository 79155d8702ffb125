"""Format merbench: label.npz and a csv file of transcripts become samples."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr_dist.errors import DataError
from tests.corpora import open_corpus, round_trip

CARD = """
name: clips
description: Four clips.
citation: none
licence: none
format: merbench
files:
  labels: {path: label.npz}
  transcripts: {path: text.csv}
features: {}
tasks:
  sentiment: {type: regression, low: -1, high: 1, scale: sims}
splits:
  by: clip
  train: {samples: 2}
  valid: {called: val}
merbench:
  labels: labels
  transcripts: transcripts
  tasks: {sentiment: val}
"""
TEXT = (
    "name,chinese,english\nvideo_1_01,\u4f60\u597d\u3002,Hello.\nvideo_1_02,\u518d\u89c1,Bye\nvideo_1_03,\u597d,Good\n"
)


def write(folder: Path, labels: Any = None, text: str = TEXT) -> None:
    train = (
        labels if labels is not None else {"video_1_01": {"emo": 0, "val": np.float64(0.4)}, "video_1_02": {"val": -1}}
    )
    np.savez(folder / "label.npz", train_corpus=train, val_corpus={"video_1_03": {"val": 0.0}})  # type: ignore[arg-type]
    (folder / "text.csv").write_text(text)


def test_labels_and_transcripts(tmp_path: Path) -> None:
    write(tmp_path)
    source = open_corpus(tmp_path, CARD)
    summary, found = round_trip(source, tmp_path / "out")
    assert found["train"]["video_1$_$01"].transcript == "\u4f60\u597d\u3002"
    assert found["train"]["video_1$_$01"].labels == {"sentiment": 0.4}
    assert found["valid"]["video_1$_$03"].labels == {"sentiment": 0.0}
    sample = source.load("train", source.splits()["train"][1])
    assert (sample.group, sample.provenance["english"]) == ("video_1", "Bye")
    assert len(summary.warnings) == 1


def test_english_instead_of_chinese(tmp_path: Path) -> None:
    write(tmp_path)
    source = open_corpus(tmp_path, CARD + "  language: english\n")
    sample = source.load("train", source.splits()["train"][0])
    assert (sample.transcript, sample.provenance["chinese"]) == ("Hello.", "\u4f60\u597d\u3002")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"video_1_09": {"val": 0.0}}, "clip video_1_09 has no transcript"),
        ({"video_1_01": [1, 2]}, "train_corpus is not a dictionary of labels by clip"),
        ([1, 2], "not an array of a Python object"),
        ({"video_1_01": {"val": datetime.date(2000, 1, 1)}}, "the pickle names datetime.date"),
    ],
)
def test_other_objects_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    write(tmp_path, labels)
    with pytest.raises(DataError, match=message):
        open_corpus(tmp_path, CARD)


def test_an_array_of_numbers_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    np.savez(tmp_path / "label.npz", train_corpus=np.zeros(3))
    with pytest.raises(DataError, match="not an array of a"):
        open_corpus(tmp_path, CARD)
