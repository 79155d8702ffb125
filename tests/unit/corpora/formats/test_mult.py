"""Format mult: pickles of MulT and MultiBench are packed exactly, without their padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr_dist.errors import DataError
from tests.corpora import open_corpus, round_trip, same_bits, write_pickle

CARD = """
name: clips
description: Clips.
citation: none
licence: none
format: mult
files:
  data: {path: mosei_senti_data.pkl}
features:
  text: {set: glove300}
  audio: {set: covarep74, dim: 3}
  vision: {set: facet35}
tasks:
  sentiment: {type: regression, low: -3, high: 3, scale: mosi}
splits:
  train: {samples: 5}
  valid: {}
  test: {samples: 3}
mult:
  file: data
  labels: {sentiment: 0}
  aligned: true
"""
UNALIGNED = CARD.replace("aligned: true", "aligned: false")
WIDTHS = {"text": 4, "audio": 3, "vision": 2}
COUNTS = {"train": 5, "valid": 2, "test": 3}


def corpus(aligned: bool, dtype: Any = np.float32) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The content of the pickle, and by id the arrays that must be in the shards."""
    random = np.random.default_rng(5)
    content, expected = {}, {}
    for split, count in COUNTS.items():
        totals = {name: 7 if aligned else 5 + place for place, name in enumerate(WIDTHS)}
        part = {name: np.zeros((count, totals[name], width), dtype) for name, width in WIDTHS.items()}
        ids = []
        for number in range(count):
            words = int(random.integers(2, 6))
            kept = {}
            for name, width in WIDTHS.items():
                steps = words if aligned else int(random.integers(2, totals[name] + 1))
                part[name][number, totals[name] - steps :] = random.normal(size=(steps, width))
                kept[name] = part[name][number, totals[name] - steps :]
            if number == 1:
                # Zero at first, although it is a step; seen only from what the other modalities have.
                part["audio"][number, totals["audio"] - len(kept["audio"])] = 0
                kept["audio"] = kept["audio"][0 if aligned else 1 :]
            if number == 2:
                part["vision"][number] = 0
                del kept["vision"]
            id_ = [f"{split}{number // 2}", str(float(number)), str(number + 0.5)]
            ids.append(id_)
            expected["_".join(id_)] = kept
        labels = random.uniform(-3, 3, (count, 1, 1)).astype(np.float32)
        content[split] = {**part, "labels": labels, "id": np.array(ids)}
    return content, expected


def opened(tmp_path: Path, content: Any, card: str = CARD, protocol: int = 4) -> Any:
    write_pickle(tmp_path / "mosei_senti_data.pkl", content, protocol)
    return open_corpus(tmp_path, card)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_sample_comes_back(tmp_path: Path, aligned: bool, dtype: Any) -> None:
    content, expected = corpus(aligned, dtype)
    summary, found = round_trip(opened(tmp_path, content, CARD if aligned else UNALIGNED), tmp_path / "out")
    assert sum(split.samples for split in summary.splits) == sum(COUNTS.values()) == len(expected)
    for split, samples in found.items():
        assert set(samples) == {"_".join(id_) for id_ in content[split]["id"].tolist()}
        for number, id_ in enumerate(content[split]["id"].tolist()):
            sample = samples["_".join(id_)]
            assert same_bits(sample.arrays, expected[sample.id]), sample.id
            assert np.float32(sample.labels["sentiment"]) == content[split]["labels"][number, 0, 0]
            assert sample.words == ()
    assert [split.missing for split in summary.splits] == [{"vision": 1}, {}, {"vision": 1}]


@pytest.mark.parametrize("kind", ["bytes", "objects", "lists"])
def test_ids_of_three_parts_have_their_video_as_group(tmp_path: Path, kind: str) -> None:
    content, _ = corpus(aligned=True)
    for part in content.values():
        ids = part["id"]
        part["id"] = {"bytes": ids.astype("S"), "objects": ids.astype(object), "lists": ids.tolist()}[kind]
    source = opened(tmp_path, content)
    assert [(ref.id, ref.group) for ref in source.splits()["test"]][2] == ("test1_2.0_2.5", "test1")
    content["valid"]["id"][1][0] = content["test"]["id"][2][0]
    with pytest.raises(DataError, match="group test1 is in the splits valid and test"):
        opened(tmp_path, content)


def test_ids_of_one_part(tmp_path: Path) -> None:
    content, _ = corpus(aligned=True)
    for split, part in content.items():
        part["id"] = [f"{split}[{number}]" for number in range(len(part["id"]))]
    assert {ref.group for ref in opened(tmp_path, content).splits()["test"]} == {None}
    source = opened(tmp_path, content, CARD + "  separator: '['\n")
    assert [(ref.id, ref.group) for ref in source.splits()["test"]][2] == ("test[2]", "test")
    start = {"train": 0, "valid": 100, "test": 200}
    for split, part in content.items():
        part["id"] = np.arange(start[split], start[split] + len(part["id"])).reshape(-1, 1)
    assert [ref.id for ref in opened(tmp_path, content).splits()["test"]] == ["200", "201", "202"]
    for part in content.values():
        del part["id"]
    assert [ref.id for ref in opened(tmp_path, content).splits()["test"]] == ["test_0", "test_1", "test_2"]


def test_labels_in_one_hot_form(tmp_path: Path) -> None:
    tasks = "  happy: {type: classification, classes: 2}\n  sad: {type: classification, classes: 2}\n"
    card = CARD.replace("  sentiment: {type: regression, low: -3, high: 3, scale: mosi}\n", tasks)
    card = card.replace("{sentiment: 0}", "{happy: 1, sad: 2}")
    content, _ = corpus(aligned=True)
    for part in content.values():
        truth = np.random.default_rng(1).integers(0, 2, (len(part["labels"]), 4))
        part["labels"] = np.eye(2)[truth]
    _, found = round_trip(opened(tmp_path, content, card), tmp_path / "out")
    for split, samples in found.items():
        for number, id_ in enumerate(content[split]["id"].tolist()):
            happy, sad = content[split]["labels"][number, 1:3].argmax(axis=1)
            assert samples["_".join(id_)].labels == {"happy": happy, "sad": sad}
    content["test"]["labels"][0, 1] = [0.5, 0.5]
    source = opened(tmp_path, content, card)
    with pytest.raises(DataError, match="not in one-hot form"):
        source.load("test", source.splits()["test"][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["test"].pop("text"), r"no array text"),
        (lambda c: c["test"].update(text=c["test"]["text"][:, 1:]), r"differ in steps.*set mult.aligned to false"),
        (
            lambda c: c["test"].update(labels=c["test"]["labels"][:, :0]),
            r"labels is \[3, 0, 1\], which has no column 0",
        ),
        (lambda c: c["test"].update(labels=c["test"]["labels"].astype("U9")), r"array labels: not numbers"),
        (lambda c: c["test"].update(id=[[["a"]]] * 3), r"array id: row 0: not a text"),
        (lambda c: c["test"].update(id=[["a"], [], ["b"]]), r"array id: a sample without a text"),
        (lambda c: c["test"].update(id=np.zeros((3, 0), "U1")), r"array id: a sample without a text"),
        (lambda c: c["test"].update(id=np.zeros((1 << 40, 0), "U1")), r"array id: 1099511627776 entries for 3 samples"),
        (lambda c: c["test"].update(id=[["a"] * 9] * 3), r"array id: a sample with more than 8 texts"),
        (lambda c: c["test"].update(id=[["a", "0", "1"]] * 3), r"sample id a_0_1 is given twice"),
        (
            lambda c: c["train"].update({n: v[:4] for n, v in c["train"].items()}),
            r"train has 4 samples, the card expects 5",
        ),
        (lambda c: c.update(extra=c["test"]), r"has the splits train, valid, test, extra"),
    ],
)
def test_pickles_that_do_not_fit_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    content, _ = corpus(aligned=True)
    change(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path, content)
