"""Real files of the CMU SDK and a real pickle, compared with independent conversions of the same corpus."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ivr_dist.corpora.card import SourceFile, find_card
from ivr_dist.corpora.readers.safe_pickle import load_pickle
from ivr_dist.corpora.registry import open_source
from tests.corpora import round_trip

FOLDER = Path(os.environ.get("IVR_DIST_REAL_DATA", "/nonexistent")) / "cmu-mosi"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="IVR_DIST_REAL_DATA names no folder with cmu-mosi in it"),
]


def test_segments_and_words_are_those_of_another_derivation(tmp_path: Path) -> None:
    summary, found = round_trip(open_source(str(FOLDER), find_card("mosi_csd")), tmp_path, 500)
    assert {split.split: split.samples for split in summary.splits} == {"train": 1282, "valid": 229, "test": 686}
    assert [(sample.id, sample.reason) for sample in summary.dropped] == [
        ("2WGyTLYerpo_44", "no words in its interval"),
        ("VCslbP0mgZI_1", "no words in its interval"),
    ]
    segments = {segment["id"]: segment for segment in json.loads((FOLDER / "segments.json").read_text())}
    with np.load(FOLDER / "mosi_words_all.npz") as words, np.load(FOLDER / "glove300_mosi_vocab.npz") as glove:
        row = {str(segment): number for number, segment in enumerate(words["segment"])}
        spoken, offset, glove_id, vectors = words["words"], words["offset"], words["glove_id"], glove["vectors"]
    count = 0
    for split, samples in found.items():
        for id_, sample in samples.items():
            entries = slice(offset[row[id_]], offset[row[id_] + 1])
            assert list(sample.words) == spoken[entries].tolist(), id_
            assert sample.arrays["text"].tobytes() == vectors[glove_id[entries]].tobytes(), id_
            assert segments[id_]["split"] == split
            assert sample.labels["sentiment"] == pytest.approx(segments[id_]["label"], abs=1e-6)
            count += 1
    assert count + len(summary.dropped) == len(segments) == 2199


def test_the_fix_puts_words_where_they_were_said() -> None:
    said = {}
    card = find_card("mosi_csd")
    assert card.csd is not None
    for fixed in (True, False):
        source = open_source(str(FOLDER), card if fixed else replace(card, csd=replace(card.csd, fixes=[])))
        ref = next(ref for ref in source.splits()["train"] if ref.id == "03bSnISJMiM_1")
        said[fixed] = source.load("train", ref).transcript
    assert said == {True: "anyhow it was really good", False: "her anyhow it was really"}


def test_a_real_pickle() -> None:
    found = load_pickle(str(FOLDER / "wordlevel_valid"), SourceFile(path="dev.pkl"))
    with np.load(FOLDER / "wordlevel_valid" / "mosi_valid_wordlevel.npz") as flat:
        visual, acoustic, offset, label = flat["visual"], flat["acoustic"], flat["offset"], flat["label"]
        glove_id = flat["glove_id"]
    assert len(found) == len(label) == 229
    for number, ((ids, seen, heard, _), truth, _) in enumerate(found):
        entries = slice(offset[number], offset[number + 1])
        assert np.array_equal(ids.load(), glove_id[entries])
        assert np.array_equal(seen.load(), visual[entries]) and np.array_equal(heard.load(), acoustic[entries])
        assert truth.load().reshape(-1).tolist() == [label[number]]
