"""Leakage between real corpora of transcripts, if available: the counts that their sources state."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ivr_dist.corpora.card import Card, SourceFile, Split, TableMapping
from ivr_dist.corpora.registry import open_source
from ivr_dist.data.overlap import HashedSplit, Overlap, find_overlaps
from ivr_dist.inspection.verify import verify
from ivr_dist.packing.pack import pack
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import TaskSpec
from ivr_dist.shards.split_hashes import open_hashes

DATA = Path(os.environ.get("IVR_DIST_REAL_DATA", "/nonexistent"))
CORPORA = ("meld", "emorynlp", "mustard", "mustard_plus_plus", "sims", "simsv2")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not all((DATA / name / "samples.jsonl").is_file() for name in CORPORA),
        reason="IVR_DIST_REAL_DATA names no folder with MELD, EmoryNLP, MUStARD, MUStARD++ and CH-SIMS in it",
    ),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transcripts and one constant label of each corpus."""
    place = tmp_path_factory.mktemp("packed")
    for name in CORPORA:
        lines = [json.loads(line) for line in (DATA / name / "samples.jsonl").read_text().splitlines()]
        folder = place / "sources" / name
        folder.mkdir(parents=True)
        kept = ("id", "split", "group", "transcript")
        samples = [{key: line[key] for key in kept if key in line} | {"labels": {"any": 0.0}} for line in lines]
        (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        card = Card(
            name=name,
            description="Transcripts.",
            citation="none",
            licence="none",
            format="table",
            files={"samples": SourceFile(path="samples.jsonl")},
            features={},
            tasks={"any": TaskSpec(type="regression")},
            splits={split: Split() for split in dict.fromkeys(line["split"] for line in lines)},
            table=TableMapping(file="samples"),
        )
        pack(open_source(str(folder), card), str(place / name))
    return place


@pytest.fixture(scope="module")
def pairs(packed: Path) -> dict[tuple[str, str], Overlap]:
    splits = []
    for name in CORPORA:
        for folder in sorted(path for path in (packed / name).iterdir() if path.is_dir()):
            manifest = Manifest.load(str(folder))
            splits.append(HashedSplit(name, manifest.split, str(folder), manifest, open_hashes(str(folder), manifest)))
    trained = [split for split in splits if split.split == "train"]
    found = find_overlaps(trained, [split for split in splits if split.split != "train"])
    return {(pair.train, pair.scored): pair for pair in found.pairs}


@pytest.mark.parametrize(
    ("train", "scored", "texts", "comparable"),
    [
        ("emorynlp", "meld test", 250, 1705),
        ("meld", "emorynlp test", 92, 573),
        ("meld", "mustard test", 148, 276),
        ("emorynlp", "mustard test", 25, 276),
    ],
)
def test_texts_that_are_trained_on_elsewhere(
    pairs: dict[tuple[str, str], Overlap], train: str, scored: str, texts: int, comparable: int
) -> None:
    pair = pairs[f"{train} train", scored]
    assert (pair.texts, pair.comparable, pair.is_leak) == (texts, comparable, True)


def test_corpora_that_contain_another(packed: Path, pairs: dict[tuple[str, str], Overlap]) -> None:
    notices = [
        notice.what.partition(" are in both")[0]
        for names in (("mustard", "mustard_plus_plus"), ("sims", "simsv2"))
        for notice in verify([str(packed / name) for name in names]).notices
    ]
    assert notices == ["688 sample ids", "588 texts", "60 groups (videos)", "2281 sample ids", "1728 texts"]
    # The official splits of CH-SIMS are by clip, and clips are in the same split of both versions.
    assert pairs["sims train", "simsv2 test"].divided and pairs["sims train", "simsv2 test"].ids == 0
