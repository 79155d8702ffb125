"""Text from transcripts: the vocabulary is that of train alone, the same for any number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.corpora.card import load_card
from ivr_dist.corpora.registry import open_source, opener
from ivr_dist.corpora.source import Source, notes_of
from ivr_dist.corpora.transcript_text import UNKNOWN, normalized
from ivr_dist.errors import ConfigError, DataError
from ivr_dist.inspection.find_sample import find_sample
from ivr_dist.inspection.verify import verify
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.packing.worker_pool import ProcessPool
from ivr_dist.shards.manifest import Manifest

TEXTS = {
    "train": ["So good!", "so, so bad", "the plot was good", "the end"],
    "valid": ["so good", "zebra zebra"],
    "test": ["The BAD plot", "..."],
}
GLOVE = "so 1 0\nThe 0 1\nthe 0 2\nplot 3 3\n. . 5 5\ngood 4 -4.5\n"


def opened(tmp_path: Path, text: dict[str, Any], texts: dict[str, list[str]] = TEXTS, name: str = "films") -> Source:
    rows = [
        {"id": f"{name}{split}{n}", "split": split, "transcript": words, "labels": {"funny": n % 2}}
        for split, lines in texts.items()
        for n, words in enumerate(lines)
    ]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "glove.txt").write_text(GLOVE)
    card = {
        "name": name,
        "description": "d",
        "citation": "c",
        "licence": "l",
        "format": "table",
        "files": {"samples": {"path": "samples.jsonl"}, "glove": {"path": "glove.txt"}},
        "features": {},
        "tasks": {"funny": {"type": "classification", "classes": 2}},
        "splits": {split: {} for split in texts},
        "text": {"from": "transcript", **text},
        "table": {"file": "samples"},
    }
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    return open_source(str(tmp_path), load_card(str(tmp_path / "card.yaml")))


def ids_of(source: Source, split: str) -> list[list[int]]:
    arrays = [source.load(split, ref).arrays for ref in source.splits()[split]]
    return [array["text"].tolist() if "text" in array else [] for array in arrays]


def test_the_most_frequent_words_of_train_become_ids(tmp_path: Path) -> None:
    source = opened(tmp_path, {"vocabulary": 2})
    # so 3, good 2, the 2: of equal counts the first in the alphabet.
    assert ids_of(source, "train") == [[1, 2], [1, 1, 0], [0, 0, 0, 2], [0, 0]]
    assert ids_of(source, "valid") == [[1, 2], [0, 0]], "zebra occurs twice, but not in train"
    assert source.features["text"].kind == "tokens"
    assert notes_of(source) == [
        "text is the ids of 2 of the 7 words of train, the others are <unk> (54.5 % of the words spoken)"
    ]


def test_rare_words_of_train_are_unknown_unless_all_are_asked_for(tmp_path: Path) -> None:
    assert len(opened(tmp_path, {"vocabulary": 5000}).table.words) == 4  # type: ignore[attr-defined]
    every = opened(tmp_path, {"vocabulary": 5000, "min_count": 1})
    assert every.table.words[0] == UNKNOWN and len(every.table.words) == 8  # type: ignore[attr-defined]


def test_one_and_two_processes_pack_the_same_bytes_and_the_manifest_knows_the_words(tmp_path: Path) -> None:
    source = opened(tmp_path, {"vocabulary": 100})
    card = load_card(str(tmp_path / "card.yaml"))
    options = PackOptions(shard_samples=1)
    pack(source, str(tmp_path / "one"), options)
    pool = ProcessPool(2, start_s=0)
    pack(source, str(tmp_path / "two"), options, opener=opener(str(tmp_path), card, source), pool=pool)
    manifests = [Manifest.load(str(tmp_path / url / split)) for url in ("one", "two") for split in TEXTS]
    assert [m.id for m in manifests[:3]] == [m.id for m in manifests[3:]]
    assert all(m.words == {"text": [UNKNOWN, "so", "good", "the"]} for m in manifests)
    assert manifests[0].vocabulary == {"text": 4}
    urls = [str(tmp_path / "one" / split) for split in TEXTS]
    assert find_sample(urls, "filmstest0").words == {"text": ["the", UNKNOWN, UNKNOWN]}
    assert verify(urls, card).ok


def test_a_corpus_that_is_packed_later_takes_the_words_of_another(tmp_path: Path) -> None:
    pack(opened(tmp_path, {"vocabulary": 100}), str(tmp_path / "films"))
    train = str(tmp_path / "films" / "train")
    other = opened(tmp_path, {"vocabulary": train}, {"test": ["good zebra"]}, "others")
    assert ids_of(other, "test") == [[2, 0]]
    assert other.features["text"] == Manifest.load(train).features["text"], "one feature set, so one embedding"
    pack(opened(tmp_path, {"vectors": "glove"}), str(tmp_path / "vectors"))
    with pytest.raises(DataError, match=r"the packed split has no words"):
        opened(tmp_path, {"vocabulary": str(tmp_path / "vectors" / "train")})


def test_vectors_of_words_from_a_file(tmp_path: Path) -> None:
    source = opened(tmp_path, {"vectors": "glove"})
    assert (source.features["text"].set, source.features["text"].dim) == ("glove", 2)
    (first, _) = source.splits()["test"]
    # "The" is there as it is written; BAD is not there, in any case.
    assert source.load("test", first).arrays["text"].tolist() == [[0, 1], [0, 0], [3, 3]]
    (good, *_) = source.splits()["train"]
    assert source.load("train", good).arrays["text"].tolist() == [[1, 0], [4, -4.5]]
    assert notes_of(source) == [
        "7 of 19 words have no vector and become zeros (6 different: zebra, ..., BAD, bad, end, ...)"
    ]


@pytest.mark.parametrize("first", ["", "5 2\n"])
def test_a_damaged_line_of_vectors_is_named(tmp_path: Path, first: str) -> None:
    opened(tmp_path, {"vectors": "glove"})
    (tmp_path / "glove.txt").write_text(first + "so 1 0\nthe 1 x\n")
    with pytest.raises(DataError, match=rf"not a word and 2 numbers \(glove.txt, line {3 if first else 2}\)"):
        open_source(str(tmp_path), load_card(str(tmp_path / "card.yaml")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({}, r"needs a vocabulary or vectors .*key text.*such as 5000"),
        ({"vocabulary": 0}, r"the vocabulary is 0"),
        ({"vocabulary": 5, "min_count": 0}, r"min_count is 0"),
        ({"vocabulary": 5, "vectors": "glove"}, r"a vocabulary and vectors.*keep one"),
        ({"vectors": "glov"}, r"glov is not a key of files.*mean glove\?"),
        ({"vocabulary": 5, "from": "audio"}, r"text.from: 'audio' is not one of transcript"),
    ],
)
def test_sections_that_cannot_work_are_refused(tmp_path: Path, text: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path, text)


def test_a_training_split_without_a_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no sample of the split train has a transcript"):
        opened(tmp_path, {"vocabulary": 5}, {"train": ["", " "], "test": ["word"]})


@given(st.text(st.sampled_from("aZ\u00e9\u4f60'-7"), min_size=1, max_size=8), st.text(st.sampled_from("\"'.,?!\u201d")))
def test_case_and_punctuation_at_the_ends_make_no_other_word(word: str, mark: str) -> None:
    assert normalized(f"a{word}a{mark}") == normalized(f"{mark}A{word}a") == normalized(f"a{word}a")
    assert normalized(mark) == mark, "a word of punctuation alone stays"


def test_words_by_hand() -> None:
    assert [normalized(word) for word in ("It's", "END.", "\u201cso\u201d", "...", "\uff21")] == [
        "it's",
        "end",
        "so",
        "...",
        "a",
    ]
