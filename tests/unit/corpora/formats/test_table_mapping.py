"""Format table with columns that the card maps: csv, tsv and JSONL give the same samples; mistakes name their line."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ivr_dist.corpora.card import load_card
from ivr_dist.corpora.registry import open_source
from ivr_dist.corpora.source import Source, notes_of
from ivr_dist.errors import ConfigError, DataError

CARD: dict[str, Any] = {
    "name": "films",
    "description": "Clips.",
    "citation": "none",
    "licence": "none",
    "format": "table",
    "files": {"labels": {"path": "labels.csv"}},
    "features": {"audio": {"set": "a3"}},
    "tasks": {
        "sentiment": {"type": "regression", "low": -3, "high": 3},
        "mood": {"type": "classification", "classes": 2, "names": ["Sad", "glad"]},
    },
    "splits": {"train": {}, "valid": {"called": "dev"}},
    "table": {
        "file": "labels",
        "id": "{video}_{clip:02}",
        "split": "fold",
        "group": "video",
        "labels": {"sentiment": "score", "mood": "feeling"},
        "transcript": "words",
        "audio": "audio/{clip}.npy",
        "provenance": ["speaker"],
    },
}
ROWS = [
    {
        "video": "v1",
        "clip": "1",
        "fold": "train",
        "score": "1.5",
        "feeling": "sad",
        "words": "so, good",
        "speaker": "A",
    },
    {"video": "v1", "clip": "2", "fold": "train", "score": "", "feeling": "GLAD", "words": "", "speaker": "B"},
    {"video": "v2", "clip": "3", "fold": "dev", "score": "nan", "feeling": "1", "words": "no\nway", "speaker": ""},
]


def delimited(rows: list[dict[str, str]], separator: str) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


WRITERS = {
    "labels.csv": lambda rows: delimited(rows, ","),
    "labels.tsv": lambda rows: delimited(rows, "\t"),
    "labels.jsonl": lambda rows: "\n".join(json.dumps(row) for row in rows),
}


def opened(
    tmp_path: Path, rows: list[dict[str, str]], name: str = "labels.csv", changes: dict[str, Any] | None = None
) -> Source:
    (tmp_path / "audio").mkdir(exist_ok=True)
    for clip in (1, 3):
        np.save(tmp_path / "audio" / f"{clip}.npy", np.full((clip, 3), clip, np.float32))
    (tmp_path / name).write_text(WRITERS[name](rows), newline="")
    card = {**CARD, "files": {"labels": {"path": name}}, **(changes or {})}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return open_source(str(tmp_path), load_card(str(tmp_path / "card.yaml")))


def changed(number: int, **values: str) -> list[dict[str, str]]:
    return [{**row, **values} if position == number else row for position, row in enumerate(ROWS)]


@pytest.mark.parametrize("name", WRITERS)
def test_columns_become_samples(tmp_path: Path, name: str) -> None:
    source = opened(tmp_path, ROWS, name)
    samples = [source.load(split, ref) for split, refs in source.splits().items() for ref in refs]
    assert [(s.id, s.split, s.group, s.labels) for s in samples] == [
        ("v1_01", "train", "v1", {"sentiment": 1.5, "mood": 0}),
        ("v1_02", "train", "v1", {"sentiment": None, "mood": 1}),
        ("v2_03", "valid", "v2", {"sentiment": None, "mood": 1}),
    ]
    assert [s.transcript for s in samples] == ["so, good", "", "no\nway"]
    assert [s.arrays["audio"].shape if s.arrays else None for s in samples] == [(1, 3), None, (3, 3)]
    lines = [1, 2, 3] if name == "labels.jsonl" else [2, 3, 4]
    assert [s.provenance["line"] for s in samples] == lines
    assert samples[0].provenance["speaker"] == "A"
    assert notes_of(source) == [
        f"audio has no file in 1 of 3 rows, which are packed without it; the first is audio/2.npy (line {lines[1]})"
    ]


def test_a_csv_file_without_a_mapping_has_the_columns_of_the_format(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "split": "train", "sentiment": "1", "mood": "0", "audio": "audio/1.npy", "other": "x"},
        {"id": "b", "split": "dev", "sentiment": "", "mood": "1", "audio": "", "other": "x"},
    ]
    source = opened(tmp_path, rows, changes={"table": {"file": "labels"}})
    (first,), (second,) = source.splits()["train"], source.splits()["valid"]
    assert source.load("train", first).arrays["audio"].shape == (1, 3)
    assert source.load("valid", second).labels == {"sentiment": None, "mood": 1}


def test_one_vector_is_a_sequence_of_one_step(tmp_path: Path) -> None:
    opened(tmp_path, ROWS)
    np.save(tmp_path / "audio" / "1.npy", np.ones(3, np.float32))
    source = opened(tmp_path, ROWS)
    np.save(tmp_path / "audio" / "1.npy", np.ones(3, np.float32))
    assert source.load("train", source.splits()["train"][0]).arrays["audio"].shape == (1, 3)


def test_shares_assign_whole_groups(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "clip": str(clip), "video": f"v{clip // 2}"} for clip in range(20)]
    mapping = {key: value for key, value in CARD["table"].items() if key != "split"}
    splits = {"shares": {"train": 70, "valid": 10, "test": 20}, "seed": 3}
    source = opened(tmp_path, rows, changes={"splits": splits, "table": mapping})
    assert {name: len(refs) for name, refs in source.splits().items()} == {"train": 14, "valid": 2, "test": 4}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            changed(1, score="good"),
            r"label sentiment is 'good', not a number \(.*labels.csv, line 3\); write a number, or",
        ),
        (changed(1, score="inf"), r"label sentiment is 'inf', not a number"),
        (changed(1, feeling="gladd"), r"label mood is 'gladd', not one of the classes .*line 3.*did you mean glad\?"),
        (changed(1, clip="1"), r"sample id v1_01 is given twice .*lines 2 and 3.*table.id can join columns"),
        (changed(1, clip=""), r"the sample has no id .*line 3"),
        (changed(1, clip="x"), r"clip is 'x', not a number .*line 3"),
        (changed(1, fold="tests"), r"unknown split 'tests' .*line 3"),
        (
            [{**row, "clip": "9" + row["clip"]} for row in ROWS],
            r"none of the 3 files of audio exists.*audio/91.npy .*line 2",
        ),
        ([{k.replace("fold", "folds"): v for k, v in row.items()} for row in ROWS], r"no column 'fold'.*mean folds\?"),
        ([{k: v for k, v in row.items() if k != "clip"} for row in ROWS], r"there is no column 'clip'.*known: "),
    ],
)
def test_mistakes_name_line_and_remedy(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=re.compile(message, re.S)):
        opened(tmp_path, rows)


def test_a_csv_file_that_is_called_jsonl_and_the_reverse_are_said(tmp_path: Path) -> None:
    opened(tmp_path, ROWS, "labels.jsonl")
    (tmp_path / "labels.jsonl").write_text(delimited(ROWS, ","))
    with pytest.raises(DataError, match=r"not JSON.*line 1.*looks like a table with a header; call it .csv or .tsv"):
        open_source(str(tmp_path), load_card(str(tmp_path / "card.yaml")))
    opened(tmp_path, ROWS)
    (tmp_path / "labels.csv").write_text(WRITERS["labels.jsonl"](ROWS))
    with pytest.raises(DataError, match=r"this is JSON, not a csv or tsv file"):
        open_source(str(tmp_path), load_card(str(tmp_path / "card.yaml")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": {"shares": {"train": 1}}}, r"defined in two ways"),
        ({"splits": {"shares": {"train": 0}}, "table": {"file": "labels"}}, r"share of train is 0.*above 0"),
        ({"splits": {"shares": {"train": 1}, "test": {}}, "table": {"file": "labels"}}, r"split test has no share"),
        ({"splits": {"shares": {"train": 1}, "seed": -1}, "table": {"file": "labels"}}, r"the seed is -1"),
        ({"table": {**CARD["table"], "vision": "v/{clip}.npy"}}, r"no features of vision .*key table.vision"),
        ({"table": {**CARD["table"], "labels": {"sentimnt": "score"}}}, r"table.labels.sentimnt.*mean sentiment\?"),
    ],
)
def test_cards_that_contradict_themselves(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.compile(message, re.S)):
        opened(tmp_path, ROWS, changes=changes)
