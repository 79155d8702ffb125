"""The cards of corpora of transcripts against the files as their authors publish them, if available.

The folders also have `samples.jsonl`: the samples as prepared independently of the readers here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ivr_dist.corpora.card import find_card
from ivr_dist.corpora.registry import open_source
from ivr_dist.corpora.source import SourceSample
from ivr_dist.inspection.verify import verify
from ivr_dist.packing.pack import pack

FOLDER = Path(os.environ.get("IVR_DIST_REAL_DATA", "/nonexistent"))

CARDS = {
    "meld": "meld",
    "emorynlp": "emorynlp",
    "mosei": "mosei_transcripts",
    "mustard": "mustard",
    "mustard_plus_plus": "mustard_plus_plus",
    "sims": "sims_transcripts",
    "simsv2": "simsv2_transcripts",
}

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (FOLDER / "meld").is_dir(), reason="IVR_DIST_REAL_DATA names no folder with meld in it"),
]


def published(folder: str) -> dict[str, SourceSample]:
    source = open_source(str(FOLDER / folder), find_card(CARDS[folder]))
    return {ref.id: source.load(split, ref) for split, refs in source.splits().items() for ref in refs}


def prepared(folder: str) -> dict[str, dict[str, Any]]:
    lines = (FOLDER / folder / "samples.jsonl").read_text().split("\n")
    return {row["id"]: row for row in map(json.loads, filter(None, lines))}


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("folder", CARDS)
def test_samples_are_those_prepared_independently(folder: str) -> None:
    found, expected = published(folder), prepared(folder)
    assert found.keys() == expected.keys()
    for id_, row in expected.items():
        sample = found[id_]
        assert sample.split == row["split"]
        assert sample.labels == pytest.approx(row["labels"], abs=1e-6)
        assert squeezed(sample.transcript) == squeezed(row["transcript"])
        # Where samples.jsonl leaves the group out (it is divided there), the series or the video is one here.
        assert "group" not in row or sample.group == row["group"]
        context = [each if isinstance(each, str) else each["text"] for each in row["provenance"].get("context", ())]
        if folder.startswith("mustard"):
            assert [squeezed(each.text) for each in sample.context] == list(map(squeezed, context))
        if folder == "mustard":
            assert sample.provenance["test_folds"] == row["provenance"]["fold_where_test"]
            assert [each.speaker for each in sample.context] == row["provenance"]["context_speakers"]


@pytest.mark.parametrize("folder", ["meld", "mustard", "sims"])
def test_what_is_packed_is_sound(folder: str, tmp_path: Path) -> None:
    card = find_card(CARDS[folder])
    summary = pack(open_source(str(FOLDER / folder), card), str(tmp_path))
    assert not any(split.warnings for split in summary.splits if folder == "sims")
    assert not any(split.empty for split in summary.splits)
    result = verify([str(tmp_path)], card)
    assert result.ok
    divided = [notice.what for notice in result.notices]
    assert len(divided) == (folder == "sims")
    assert all("split by clip: 60 groups" in what for what in divided)


def test_the_context_of_dialogues_is_what_was_said_before() -> None:
    samples = published("meld")
    assert samples["train_dia0_utt0"].context == ()
    third = samples["train_dia0_utt2"]
    assert third.turn == 2
    assert [each.text for each in third.context] == [samples[f"train_dia0_utt{n}"].transcript for n in (0, 1)]
    assert max(len(sample.context) for sample in samples.values()) == 10


def test_each_fold_of_mustard_is_a_card(tmp_path: Path) -> None:
    text = Path(__file__).parents[2].joinpath("shards/mustard.yaml").read_text()
    splits = text[text.index("splits:\n") : text.index("utterances:\n")]
    text = text.replace(splits, "splits:\n  by: clip\n  train: {samples: 552}\n  test: {samples: 138}\n")
    tests: list[str] = []
    for fold in range(5):
        (tmp_path / "card.yaml").write_text(text.replace("  folds: folds\n", f"  folds: folds\n  fold: {fold}\n"))
        source = open_source(str(FOLDER / "mustard"), find_card(str(tmp_path / "card.yaml")))
        tests += [ref.id for ref in source.splits()["test"]]
    assert sorted(tests) == sorted(prepared("mustard"))


def test_ur_funny_packs_from_folds_and_labels_alone() -> None:
    source = open_source(str(FOLDER / "ur_funny_v1"), find_card("ur_funny_v1"))
    counts = {}
    for split, refs in source.splits().items():
        labels = [source.load(split, ref).labels["humor"] for ref in refs]
        counts[split] = (labels.count(1), labels.count(0))
    assert counts == {"train": (5306, 5292), "valid": (1313, 1313), "test": (1638, 1652)}
    assert not source.features
