"""Cards: valid and invalid ones; all cards in shards/ are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ivr_dist.corpora.card import Card, find_card, known_cards, load_card
from ivr_dist.corpora.files import split_of_group
from ivr_dist.errors import ConfigError, DataError
from tests.repository import ROOT

SHARDS = ROOT / "shards"

TABLE_CARD = """
name: films
description: Clips of film reviews.
citation: Nobody et al., 2026.
licence: CC-BY-4.0
format: table
files:
  samples: {path: samples.jsonl}
features:
  text: {set: glove300, dim: 300}
  audio: {set: covarep74, dim: 74, dtype: float16}
tasks:
  sentiment: {type: regression, low: -3, high: 3, scale: mosi}
splits:
  train: {samples: 8}
  test: {}
table:
  file: samples
"""

ARRAYS_CARD = TABLE_CARD.replace("format: table", "format: arrays").replace(
    "table:\n  file: samples\n",
    """arrays:
  file: samples
  id: segment
  group: video
  split: split
  labels:
    sentiment: {array: label}
  text: {array: vectors, offset: offset}
  audio: {array: frames}
""",
)


def load(tmp_path: Path, text: str) -> Card:
    path = tmp_path / "films.yaml"
    path.write_text(text)
    return load_card(str(path))


def test_a_card_becomes_what_the_manifest_needs(tmp_path: Path) -> None:
    card = load(tmp_path, TABLE_CARD)
    assert [(name, spec.set, spec.dim, spec.dtype, spec.kind) for name, spec in card.feature_specs().items()] == [
        ("text", "glove300", 300, "float32", "features"),
        ("audio", "covarep74", 74, "float16", "features"),
    ]
    task = card.tasks["sentiment"]
    assert (task.type, task.low, task.high, task.scale) == ("regression", -3.0, 3.0, "mosi")
    assert card.expected_counts() == {"train": 8, "test": None}
    assert not card.splits_by_group() and split_of_group(str(tmp_path), card) is None


def test_tokens_are_int32(tmp_path: Path) -> None:
    card = load(tmp_path, TABLE_CARD.replace("{set: glove300, dim: 300}", "{set: pieces, dim: 1, kind: tokens}"))
    assert card.feature_specs()["text"].dtype == "int32"


def test_groups_by_split(tmp_path: Path) -> None:
    text = ARRAYS_CARD.replace("{samples: 8}", "{groups: [a, '1']}").replace("test: {}", "test: {groups: [no]}")
    card = load(tmp_path, text.replace("  split: split\n", ""))
    assert split_of_group(str(tmp_path), card) == {"a": "train", "1": "train", "no": "test"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("licence: CC-BY-4.0", "license: CC-BY-4.0", r"films.yaml:5.*did you mean licence"),
        ("licence: CC-BY-4.0\n", "", r"key licence is missing"),
        ("dim: 300", "dims: 300", r"unknown key features.text.dims.*did you mean dim\?"),
        ("dim: 300", "dim: many", r"features.text.dim.*whole number.*films.yaml:10"),
        ("dim: 300", "dim: 0", r"features.text.dim"),
        ("dim: 300", "dim: 300, kind: tokens", r"features.text.dim.*1 for tokens"),
        ("scale: mosi", "scale: moody", r"tasks.sentiment.scale.*mosi"),
        ("  text: {set", "  txt: {set", r"features.txt.*did you mean text"),
        ("dtype: float16", "dtype: float8", r"features.audio.dtype.*float32"),
        ("name: films", "name: films/2", r"'films/2' is not a name"),
        ("format: table", "format: arrays", r"give the section arrays"),
        ("  file: samples", "  file: sample", r"table.file.*did you mean samples"),
        ("low: -3, ", "", r"tasks.sentiment"),
        ("low: -3", "low: 4", r"tasks.sentiment"),
        ("type: regression", "type: classification", r"tasks.sentiment.classes"),
        ("  train: {samples: 8}\n  test: {}\n", "  {}\n", r"at least one.*key splits"),
        ("  train: {samples: 8}", "  train: {groups: [a]}", r"some splits list groups"),
        (
            "low: -3, high: 3",
            "low: -3, high: 3, names: [a]",
            r"1 different names do not fit no classes.*tasks.sentiment",
        ),
        (
            "regression, low: -3, high: 3",
            "classification, classes: 2, names: [a, a]",
            r"1 different names .* 2 classes",
        ),
        ("low: -3, high: 3", "low: -3, high: 3, ordered: true", r"only classes are ordered.*tasks.sentiment.ordered"),
        ("splits:", "splits: {}\nsplits:", r"splits is given twice"),
        ("name: films", "name: !!python/name:os.system", r"tag"),
        ("table:\n  file: samples", "table: samples", r"not a mapping"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TABLE_CARD
    with pytest.raises(ConfigError, match=re.compile(message, re.S)):
        load(tmp_path, TABLE_CARD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  audio: {array: frames}\n", "", r"described for text, audio and mapped for text"),
        ("  split: split\n", "", r"one way"),
        ("sentiment: {array", "sentiments: {array", r"labels.sentiments.*did you mean sentiment"),
        ("{array: frames}", "{array: frames, file: other}", r"arrays.audio.file"),
        ("{array: frames}", "{array: frames, join: segment}", r"join is for another file"),
        ("{array: frames}", "{array: ids, lookup: {file: glove, array: vectors}}", r"arrays.audio.lookup.file"),
        ("  group: video\n", "  context: {order: index, before: 3}\n", r"need arrays.group"),
        ("  group: video\n", "  group: video\n  context: {order: index, before: 0}\n", r"context.before"),
        ("train: {samples: 8}\n  test: {}", "train: {groups: [a, b]}\n  test: {groups: [b]}", r"group b .*train and"),
    ],
)
def test_a_mapping_must_fit_its_card(tmp_path: Path, old: str, new: str, message: str) -> None:
    load(tmp_path, ARRAYS_CARD)
    assert old in ARRAYS_CARD
    with pytest.raises(ConfigError, match=re.compile(message, re.S)):
        load(tmp_path, ARRAYS_CARD.replace(old, new, 1))


MMSA_CARD = TABLE_CARD.replace("format: table", "format: mmsa").replace(
    "table:\n  file: samples\n", "mmsa:\n  file: samples\n  labels: {sentiment: regression_labels}\n"
)
MULT_CARD = TABLE_CARD.replace("format: table", "format: mult").replace(
    "table:\n  file: samples\n", "mult:\n  file: samples\n  labels: {sentiment: 0}\n  aligned: true\n"
)
CSD_CARD = (
    TABLE_CARD.replace("format: table", "format: csd")
    .replace("train: {samples: 8}\n  test: {}", "train: {groups: [a]}\n  test: {groups: [b]}")
    .replace(
        "table:\n  file: samples\n",
        """csd:
  words: samples
  labels: {file: samples, tasks: {sentiment: sentiment}}
  text: samples
  audio: samples
""",
    )
)
FUNNY_CARD = TABLE_CARD.replace("format: table", "format: ur_funny").replace(
    "table:\n  file: samples\n",
    """ur_funny:
  folds: samples
  labels: samples
  language: samples
  vectors: samples
  audio: samples
""",
)


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (MMSA_CARD, "  file: samples\n", "  file: sample\n", r"mmsa\.file.*did you mean samples"),
        (
            MMSA_CARD,
            "{sentiment: regr",
            "{sentiments: regr",
            r"unknown key mmsa\.labels\.sentiments.*did you mean sent",
        ),
        (
            MMSA_CARD,
            "  file: samples\n",
            "  file: samples\n  text: text_bert\n",
            r"the text is tokens.*set kind: tokens",
        ),
        (MMSA_CARD, "dim: 300", "kind: tokens", r"the text is features.*set kind: features"),
        (MMSA_CARD, "  test: {}", "  test: {groups: [a]}", r"some splits list groups"),
        (MMSA_CARD, "train: {samples: 8}\n  test: {}", "train: {groups: [b]}\n  test: {groups: [a]}", r"remove groups"),
        (MMSA_CARD, "format: mmsa", "format: mult", r"give the section mult"),
        (MULT_CARD, "{sentiment: 0}", "{sentiment: first}", r"mult\.labels.*whole number"),
        (MULT_CARD, "  aligned: true\n", "", r"mult\.aligned is missing"),
        (CSD_CARD, "  audio: samples\n", "", r"described for text, audio and mapped for text"),
        (CSD_CARD, "tasks: {sentiment:", "tasks: {happy:", r"unknown key csd\.labels\.tasks\.happy"),
        (CSD_CARD, "words: samples", "words: word", r"csd\.words"),
        (
            CSD_CARD,
            "  text: samples\n",
            "  text: samples\n  vocabulary: {file: samples, words: w, vectors: v, unknown: 0}\n",
            r"a vocabulary and a file",
        ),
        (
            CSD_CARD,
            "train: {groups: [a]}\n  test: {groups: [b]}",
            "train: {}\n  test: {}",
            r"no split lists its videos",
        ),
        (CSD_CARD, "test: {groups: [b]}", "test: {groups_file: tests}", r"splits\.test\.groups_file"),
        (CSD_CARD, "test: {groups: [b]}", "test: {groups: [b], called: t}", r"called is not for format csd"),
        (FUNNY_CARD, "  vectors: samples\n", "", r"the text is tokens"),
        (FUNNY_CARD, "  audio: samples\n", "", r"mapped for text"),
        (FUNNY_CARD, "tasks:\n", "tasks:\n  humor: {type: classification, classes: 2}\n", r"has one task"),
        (FUNNY_CARD, "folds: samples", "folds: fold", r"ur_funny\.folds"),
    ],
)
def test_sections_of_toolkits_must_fit_their_card(tmp_path: Path, text: str, old: str, new: str, message: str) -> None:
    load(tmp_path, text)
    assert old in text
    with pytest.raises(ConfigError, match=re.compile(message, re.S)):
        load(tmp_path, text.replace(old, new, 1))


def test_widths_may_be_left_to_the_files(tmp_path: Path) -> None:
    card = load(tmp_path, TABLE_CARD.replace("glove300, dim: 300", "glove300"))
    assert card.feature_specs({"text": 50, "audio": 74})["text"].dim == 50
    with pytest.raises(DataError, match=r"no sample has text.*set features\.text\.dim"):
        card.feature_specs({"audio": 74})
    with pytest.raises(DataError, match="audio has 73 features a step, the card says 74"):
        card.feature_specs({"text": 50, "audio": 73})


def test_another_file_needs_join(tmp_path: Path) -> None:
    text = ARRAYS_CARD.replace("{path: samples.jsonl}", "{path: a.npz}\n  other: {path: b.npz}")
    with pytest.raises(ConfigError, match="set join"):
        load(tmp_path, text.replace("{array: frames}", "{array: frames, file: other}"))
    load(tmp_path, text.replace("{array: frames}", "{array: frames, file: other, join: segment}"))


def test_cards_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    assert find_card("mosi_words").name == "mosi_words"
    assert find_card(str(SHARDS / "mosi_words.yaml")) == find_card("mosi_words")
    with pytest.raises(ConfigError, match="did you mean mosi_words"):
        find_card("mosi_word")
    with pytest.raises(ConfigError, match="no card"):
        find_card(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize("path", sorted(SHARDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_card_here_is_valid_and_states_its_terms(path: Path) -> None:
    card = load_card(str(path))
    assert card.name == path.stem
    assert known_cards()[card.name] == str(path)
    assert card.citation and card.licence and card.cautions
    # What could not be verified is empty, with a word why.
    cautions = " ".join(card.cautions)
    for file in card.files.values():
        assert len(file.sha256) == 64 if file.sha256 else "no checksum is published" in file.origin
    assert all(split.samples for split in card.splits.values()) or "counts of the splits are open" in cautions
    for name, features in card.features.items():
        width_is_known = features.dim or "read from the file" in cautions or card.format == "utterances"
        assert features.origin and width_is_known, name


@pytest.mark.parametrize("name", ["mosi", "mosei", "ur_funny", "sims", "simsv2", "meld", "mustard", "iemocap"])
def test_the_corpora_of_the_field_have_cards(name: str) -> None:
    card = find_card(name)
    assert card.access
    assert ("not tried on" in " ".join(card.cautions)) == (card.format != "utterances")


def test_published_splits() -> None:
    counts = {name: list(find_card(name).expected_counts().values()) for name in ("mosi", "mosei", "sims")}
    assert counts == {"mosi": [1284, 229, 686], "mosei": [16326, 1871, 4659], "sims": [1368, 456, 457]}


def test_the_example_of_the_format_page_is_valid(tmp_path: Path) -> None:
    page = (SHARDS / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    card = load(tmp_path, example)
    assert card.split_shares == {"train": 70, "valid": 10, "test": 20} and list(card.splits) == list(card.split_shares)
    assert card.tasks["mood"].names == ("calm", "happy", "sad")
    assert card.text is not None and card.text.from_ == "transcript"
