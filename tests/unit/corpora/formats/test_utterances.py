"""Format utterances: tables of transcripts and labels become samples with context."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr_dist.errors import ConfigError, DataError
from ivr_dist.inspection.verify import verify
from tests.corpora import open_corpus, round_trip, write_pickle

DIALOGUES = """
name: talks
description: Two dialogues.
citation: none
licence: none
format: utterances
files:
  train: {path: train.csv}
  dev: {path: dev.tsv}
  audio: {path: audio.npz, optional: true}
features:
  audio: {set: a2}
tasks:
  emotion: {type: classification, classes: 3, names: [neutral, joy, anger]}
splits:
  train: {samples: 4}
  valid: {called: dev}
utterances:
  tables: {train: train, valid: dev}
  id: "{split}_{Scene:02}_{Turn}"
  group: "{split}_{Scene:02}"
  turn: Turn
  transcript: Text
  speaker: Who
  labels: {emotion: Emotion}
  provenance: [Scene]
  context: {previous: 2}
  audio: {file: audio, array: features, ids: ids, offset: offset}
"""
TRAIN = """Scene,Turn,Text,Who,Emotion
3,2,"Third,
in two lines.",Ann,Joy
3,0,First.,Ann,neutral
3,1,Second.,"['Bob', 'Cid']",ANGER
3,3,Fourth.,Ann,
"""
DEV = "Scene\tTurn\tText\tWho\tEmotion\n3\t0\tHello.\tAnn\tjoy\n"


def write_dialogues(folder: Path, train: str = TRAIN, dev: str = DEV) -> None:
    (folder / "train.csv").write_text(train)
    (folder / "dev.tsv").write_text(dev)


def test_dialogues_with_the_utterances_before(tmp_path: Path) -> None:
    write_dialogues(tmp_path)
    source = open_corpus(tmp_path, DIALOGUES)
    assert source.features == {}
    summary, found = round_trip(source, tmp_path / "out")
    assert summary.notes == ("no audio: there is no audio.npz",)
    assert not any(split.empty for split in summary.splits)
    train = found["train"]
    assert set(train) == {f"train_03_{turn}" for turn in range(4)}
    assert train["train_03_0"].context == ()
    assert train["train_03_2"].transcript == "Third, in two lines."
    assert train["train_03_2"].context == (("First.", "Ann"), ("Second.", "Bob, Cid"))
    assert train["train_03_3"].context == (("Second.", "Bob, Cid"), ("Third, in two lines.", "Ann"))
    assert [train[f"train_03_{turn}"].labels["emotion"] for turn in range(4)] == [0, 2, 1, None]
    assert found["valid"]["dev_03_0"].context == ()
    third = source.load("train", next(ref for ref in source.splits()["train"] if ref.id == "train_03_2"))
    assert (third.group, third.turn) == ("train_03", 2)
    expected = {"Scene": "3", "speaker": "Ann", "group": "train_03", "file": "train.csv", "line": 2}
    assert third.provenance == expected
    assert verify([str(tmp_path / "out")]).ok


def test_features_of_ones_own_beside_the_tables(tmp_path: Path) -> None:
    write_dialogues(tmp_path)
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "audio.npz", ids=["train_03_0", "dev_03_0"], features=features, offset=[0, 1, 3])
    _, found = round_trip(open_corpus(tmp_path, DIALOGUES), tmp_path / "out")
    assert found["train"]["train_03_0"].arrays["audio"].tolist() == [[0, 1]]
    assert found["valid"]["dev_03_0"].arrays["audio"].tolist() == [[2, 3], [4, 5]]
    assert "audio" not in found["train"]["train_03_1"].arrays


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            TRAIN.replace("Joy", "Jov"),
            "label emotion is 'Jov', not one of neutral, joy, anger .*line 2.*mean joy",
        ),
        (TRAIN.replace("Emotion", "Feeling"), "there is no column 'Emotion'"),
        (TRAIN.replace("3,1,", "x,1,"), "Scene is 'x', not a number .*line 5"),
        (TRAIN.replace("3,1,", "3,y,"), "Turn is 'y', not a whole number .*line 5"),
        (TRAIN.replace("3,1,", "3,0,"), "sample id train_03_0 is given twice"),
        ("Scene,Turn,Text,Who,Emotion\n", "split train has 0 samples, the card expects 4"),
    ],
)
def test_mistakes_in_a_table_name_the_line(tmp_path: Path, train: str, message: str) -> None:
    write_dialogues(tmp_path, train)
    with pytest.raises(DataError, match=message):
        open_corpus(tmp_path, DIALOGUES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{previous: 2}", "{previous: 2, texts: before}", "the context has no source, or several"),
        ("  turn: Turn\n", "", "previous utterances need group and turn"),
        ("valid: dev}", "test: dev}", "there are tables for train, test and splits train, valid"),
        ("labels: {emotion", "labels: {mood", "unknown key utterances.labels.mood"),
        ("  tables:", "  hashed: {train: [1]}\n  tables:", "exactly one way"),
        ("{train: train, valid: dev}", "{}", "give tables by split, or one table"),
    ],
)
def test_contradictions_in_a_card(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_dialogues(tmp_path)
    assert old in DIALOGUES
    with pytest.raises(ConfigError, match=message):
        open_corpus(tmp_path, DIALOGUES.replace(old, new))


ONE_TABLE = """
name: jokes
description: Utterances with context.
citation: none
licence: none
format: utterances
files:
  data: {path: data.json}
  folds: {path: folds.p}
features: {}
tasks:
  sarcasm: {type: classification, classes: 2}
splits:
  train: {groups: [A]}
  test: {groups: [B]}
utterances:
  table: data
  folds: folds
  id: "{id}"
  group: "{show}"
  transcript: text
  labels: {sarcasm: sarcasm}
  context: {texts: before, speakers: by}
"""


def write_jokes(folder: Path, **change: Any) -> None:
    one = {"text": "So?", "show": "A", "sarcasm": True, "before": ["One.", "Two."], "by": ["Ann", "Bob"]}
    rows = {f"1_{n}": {**one, "show": "AB"[n % 2], "sarcasm": n < 2} for n in range(4)}
    rows["1_0"] |= change
    (folder / "data.json").write_text(json.dumps(rows))
    folds = [(np.array([0, 1]), np.array([2, 3])), (np.array([2, 3]), np.array([0, 1]))]
    write_pickle(folder / "folds.p", folds, protocol=2)


def test_one_json_table_with_context_and_folds(tmp_path: Path) -> None:
    write_jokes(tmp_path)
    source = open_corpus(tmp_path, ONE_TABLE)
    _, found = round_trip(source, tmp_path / "out")
    assert {split: set(samples) for split, samples in found.items()} == {
        "train": {"1_0", "1_2"},
        "test": {"1_1", "1_3"},
    }
    assert found["train"]["1_0"].context == (("One.", "Ann"), ("Two.", "Bob"))
    assert [found["train"][id_].labels["sarcasm"] for id_ in ("1_0", "1_2")] == [1, 0]
    assert source.load("train", source.splits()["train"][1]).provenance["test_folds"] == [0]


def test_a_fold_divides_groups_which_the_card_has_to_say(tmp_path: Path) -> None:
    write_jokes(tmp_path)
    card = ONE_TABLE.replace("{groups: [A]}", "{}").replace("{groups: [B]}", "{}")
    card = card.replace("  folds: folds\n", "  folds: folds\n  fold: 1\n")
    with pytest.raises(DataError, match="group A is in the splits train and test"):
        open_corpus(tmp_path, card)
    source = open_corpus(tmp_path, card.replace("splits:\n", "splits:\n  by: clip\n"))
    assert [ref.id for ref in source.splits()["test"]] == ["1_0", "1_1"]
    summary, _ = round_trip(source, tmp_path / "out")
    assert summary.warnings == [
        "jokes is split by clip: 2 of 2 groups (videos) are in several splits, so results say little about new videos"
    ]
    result = verify([str(tmp_path / "out")])
    assert result.ok
    assert [notice.what for notice in result.notices] == [
        "jokes is split by clip: 2 groups (videos) are in several splits, so results say little about new videos"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": ["Ann"]}, "2 before and 1 by .*entry 1_0"),
        ({"before": "One."}, "before is not a list of texts"),
        ({"sarcasm": "maybe"}, "label sarcasm is 'maybe', not a number"),
        ({"text": ["So?"]}, "text is not a text or a number"),
    ],
)
def test_mistakes_in_a_json_table_name_the_entry(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_jokes(tmp_path, **change)
    with pytest.raises(DataError, match=message):
        source = open_corpus(tmp_path, ONE_TABLE)
        source.load("train", source.splits()["train"][0])


def test_folds_of_other_files_are_refused(tmp_path: Path) -> None:
    write_jokes(tmp_path)
    write_pickle(tmp_path / "folds.p", [([0, 1], [2])])
    with pytest.raises(DataError, match="fold 0 does not have each of the 4 utterances once"):
        open_corpus(tmp_path, ONE_TABLE)


def test_rows_without_a_label_are_context_and_splits_follow_a_hash(tmp_path: Path) -> None:
    rows = [f"{n},Before {n}.,X,\n{n},Then {n}.,Y,\n{n},Now {n}.,Z,1\n" for n in range(40)]
    (tmp_path / "data.csv").write_text("scene,text,who,sarcasm\n" + "".join(rows))
    card = ONE_TABLE.replace("data.json", "data.csv").replace("  folds: {path: folds.p}\n", "")
    card = card.replace("{groups: [A]}", "{}").replace("{groups: [B]}", "{}").replace('  group: "{show}"\n', "")
    card = card.replace(
        "  folds: folds\n", "  hashed: {train: [2, 3, 4, 5, 6, 7, 8, 9], test: [0, 1]}\n  speaker: who\n"
    )
    card = card.replace('"{id}"', '"{scene}"').replace("{texts: before, speakers: by}", "{unlabeled: sarcasm}")
    _, found = round_trip(open_corpus(tmp_path, card), tmp_path / "out", shard_samples=40)
    for split, samples in found.items():
        for id_, sample in samples.items():
            digit = int(hashlib.sha256(id_.encode()).hexdigest(), 16) % 10
            assert split == ("test" if digit < 2 else "train")
            assert sample.context == ((f"Before {id_}.", "X"), (f"Then {id_}.", "Y"))
    assert sum(map(len, found.values())) == 40


def test_labels_of_the_nearest_segment(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        "video,from,to,text,mood\na,1.001,2.0,Exact.,1.0\na,5.4,6.0,Near.,0.5\na,9.0,10.0,None.,0.5\n"
    )
    # The second has a segment that is nearer, but with another label.
    (tmp_path / "labels.csv").write_text("video,start,end,mood,joy\na,1,2,1,0.1\na,5,6,0.5,0.2\na,5.3,6,-1,0.3\n")
    card = (
        DIALOGUES[: DIALOGUES.index("files:")]
        + """
files:
  train: {path: train.csv}
  labels: {path: labels.csv}
features: {}
tasks:
  mood: {type: regression, low: -3, high: 3}
  joy: {type: regression, low: 0, high: 3}
splits:
  train: {}
utterances:
  tables: {train: train}
  id: "{video}_{from}"
  group: "{video}"
  transcript: text
  labels: {mood: mood}
  nearest:
    {table: labels, video: video, start: start, end: end, times: [from, to], labels: {joy: joy}, same: {mood: mood}}
"""
    )
    source = open_corpus(tmp_path, card)
    labels = [source.load("train", ref).labels["joy"] for ref in source.splits()["train"]]
    assert labels == [0.1, 0.2, None]
    summary, _ = round_trip(source, tmp_path / "out")
    assert summary.notes == ("1 utterances have no segment in labels.csv, so they lack its labels",)
