"""Format ur_funny: pickles of UR-FUNNY, version 1 and 2, are packed exactly."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr_dist.errors import DataError
from tests.corpora import open_corpus, round_trip, same_bits, write_pickle

CARD = """
name: funny
description: Punchlines.
citation: none
licence: none
format: ur_funny
files:
  folds: {path: data_folds.pkl}
  labels: {path: humor_label_sdk.pkl}
  language: {path: language_sdk.pkl}
  vectors: {path: word_embedding_list.pkl}
  audio: {path: covarep_features_sdk.pkl}
  vision: {path: openface_features_sdk.pkl}
features:
  text: {set: glove300}
  audio: {set: covarep81, dim: 3}
  vision: {set: openface}
tasks:
  humor: {type: classification, classes: 2, scale: humor}
splits:
  train: {samples: 6}
  valid: {samples: 2, called: dev}
  test: {samples: 2}
ur_funny:
  folds: folds
  labels: labels
  language: language
  vectors: vectors
  audio: audio
  vision: vision
"""
STEPS = CARD + "  context: steps\n"
TOKENS = CARD.replace("{set: glove300}", "{set: words, kind: tokens}").replace("  vectors: vectors\n", "")
FOLDS: dict[str, list[int]] = {"train": [11, 12, 13, 14, 15, 16], "dev": [21, 22], "test": [31, 32]}
WORDS = 9


def corpus(version: int) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The content of the pickles, and by id the sentences of each sample, its punchline last."""
    random = np.random.default_rng(version)
    vectors = random.normal(size=(WORDS, 4))
    samples: dict[int, dict[str, Any]] = {}
    for number, key in enumerate(key for fold in FOLDS.values() for key in fold):
        lengths = random.integers(1, 5, random.integers(1, 4))
        words = [random.integers(0, WORDS, length).tolist() for length in lengths]
        audio = [random.normal(size=(length, 3)).astype(np.float32) for length in lengths]
        vision = [random.normal(size=(length, 2)) for length in lengths]
        samples[key] = {"text": words, "audio": audio, "vision": vision, "label": number % 2}
    entry = {
        "list": lambda parts: {
            "punchline_features": [row.tolist() for row in parts[-1]],
            "context_features": [[row.tolist() for row in part] for part in parts[:-1]],
        },
        "rows": lambda parts: {
            "punchline_features": list(parts[-1]),
            "context_features": [list(p) for p in parts[:-1]],
        },
        "array": lambda parts: {"punchline_features": parts[-1], "context_features": parts[:-1]},
    }
    language = {
        key: {
            "punchline_embedding_indexes": sample["text"][-1],
            "context_embedding_indexes": sample["text"][:-1],
        }
        | (
            {
                "punchline_sentence": f"joke {key}",
                "context_sentences": [f"part {place} of {key}" for place in range(len(sample["text"]) - 1)],
            }
            if version == 2
            else {}
        )
        for key, sample in samples.items()
    }
    kinds = ("list", "rows", "array")
    content = {
        "data_folds": FOLDS,
        "humor_label_sdk": {key: sample["label"] for key, sample in samples.items()},
        "language_sdk": language,
        "word_embedding_list": vectors.tolist() if version == 1 else list(vectors),
        "covarep_features_sdk": {k: entry[kinds[k % 3]](s["audio"]) for k, s in samples.items()},
        "openface_features_sdk": {k: entry[kinds[(k + version) % 3]](s["vision"]) for k, s in samples.items()},
    }
    for sample in samples.values():
        sample["vectors"] = [vectors[words] for words in sample["text"]]
    return content, samples


def opened(tmp_path: Path, content: dict[str, Any], card: str = CARD, protocol: int = 3) -> Any:
    for name, value in content.items():
        write_pickle(tmp_path / f"{name}.pkl", value, protocol)
    return open_corpus(tmp_path, card)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("card", "text"), [(CARD, "vectors"), (STEPS, "vectors"), (TOKENS, "text")])
def test_every_sample_comes_back(tmp_path: Path, version: int, card: str, text: str) -> None:
    content, samples = corpus(version)
    summary, found = round_trip(opened(tmp_path, content, card), tmp_path / "out")
    first = 0 if card is STEPS else -1
    assert {split: sorted(samples) for split, samples in found.items()} == {
        split: [str(key) for key in FOLDS[called]]
        for split, called in (("train", "train"), ("valid", "dev"), ("test", "test"))
    }
    for split in found.values():
        for id_, sample in split.items():
            wanted = samples[int(id_)]
            arrays = {name: np.concatenate(wanted[name][first:]) for name in ("audio", "vision")}
            arrays["text"] = np.concatenate([np.array(part) for part in wanted[text][first:]])
            assert same_bits(sample.arrays, arrays), id_
            assert sample.labels == {"humor": wanted["label"]}
            context = [f"part {place} of {id_}" for place in range(len(wanted["text"]) - 1)] if first == 0 else []
            spoken = [*context, f"joke {id_}"] if version == 2 else []
            assert sample.transcript == " ".join(spoken)
    assert not any(split.missing or split.replaced or split.unlabelled for split in summary.splits)


def test_the_context_stays_in_the_provenance(tmp_path: Path) -> None:
    content, samples = corpus(2)
    round_trip(opened(tmp_path, content), tmp_path / "out")
    found = {}
    for path in sorted((tmp_path / "out" / "train").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".json"):
                    about = json.load(tar.extractfile(member))  # type: ignore[arg-type]
                    found[int(about["id"])] = about["provenance"]["context"]
    assert found == {
        key: [f"part {place} of {key}" for place in range(len(samples[key]["text"]) - 1)] for key in FOLDS["train"]
    }


def test_entries_that_are_not_there_are_missing(tmp_path: Path) -> None:
    content, _ = corpus(2)
    del content["covarep_features_sdk"][31], content["humor_label_sdk"][31], content["language_sdk"][32]
    content["openface_features_sdk"][32]["punchline_features"] = []
    summary, found = round_trip(opened(tmp_path, content), tmp_path / "out")
    test = next(split for split in summary.splits if split.split == "test")
    assert test.missing == {"text": 1, "audio": 1, "vision": 1} and test.unlabelled == {"humor": 1}
    assert set(found["test"]["31"].arrays) == {"text", "vision"} and set(found["test"]["32"].arrays) == {"audio"}


@pytest.mark.parametrize("dtype", [int, object])
def test_folds_may_be_arrays(tmp_path: Path, dtype: Any) -> None:
    content, _ = corpus(2)
    content["data_folds"] = {split: np.array(ids, dtype) for split, ids in FOLDS.items()}
    source = opened(tmp_path, content)
    assert [ref.id for ref in source.splits()["test"]] == ["31", "32"]
    assert source.load("test", source.splits()["test"][0]).labels["humor"] is not None


def test_folds_may_be_columns_and_contexts_arrays(tmp_path: Path) -> None:
    content, _ = corpus(2)
    content["data_folds"] = {name: np.array(fold)[:, None] for name, fold in FOLDS.items()}
    content["language_sdk"][11]["context_sentences"] = np.array(["so", "good"])
    content["language_sdk"][12]["context_sentences"] = None
    _, found = round_trip(opened(tmp_path, content), tmp_path / "out")
    assert len(found["train"]) == 6


def test_folds_with_ids_of_another_type_are_refused(tmp_path: Path) -> None:
    content, _ = corpus(2)
    content["data_folds"] = {name: list(map(str, fold)) for name, fold in FOLDS.items()}
    with pytest.raises(DataError, match="none of its ids is in the language file: '11', 11"):
        opened(tmp_path, content)


def test_sentences_may_be_lists_of_words(tmp_path: Path) -> None:
    content, _ = corpus(2)
    content["language_sdk"][31] |= {"punchline_sentence": ["so", "good"], "context_sentences": [["one"], "two words"]}
    source = opened(tmp_path, content, STEPS)
    sample = source.load("test", source.splits()["test"][0])
    assert sample.transcript == "one two words so good" and sample.provenance["context"] == ["one", "two words"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["data_folds"].pop("dev"), r"has the splits train, test, the card train, dev, test"),
        (lambda c: c["data_folds"].update(test=[31, 11]), r"sample id 11 is given twice"),
        (lambda c: c["data_folds"].update(test="31"), r"split test: not a list of texts"),
        (lambda c: c["data_folds"].update(test=[31]), r"test has 1 samples, the card expects 2"),
        (lambda c: c.update(humor_label_sdk=[1, 0]), r"not a dictionary by id.*humor_label_sdk"),
        (
            lambda c: c.update(word_embedding_list=[[1.0], [1.0, 2.0]]),
            r"not a table of word vectors.*word_embedding_list",
        ),
    ],
)
def test_pickles_that_do_not_fit_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    content, _ = corpus(2)
    content["data_folds"] = dict(FOLDS)
    change(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path, content)


@pytest.mark.parametrize(
    ("file", "value", "message"),
    [
        (
            "language_sdk",
            {"punchline_embedding_indexes": [0, 99]},
            r"a word index is not in the table of 9 vectors.*sample 31",
        ),
        ("language_sdk", {"punchline_embedding_indexes": [0, -1]}, r"a word index is not in the table"),
        ("language_sdk", {"punchline_embedding_indexes": [0.5]}, r"not whole numbers"),
        ("language_sdk", {"words": []}, r"an entry without punchline_embedding_indexes"),
        ("language_sdk", {"punchline_sentence": ["word " * 999] * 999}, r"a sentence of more than 100000 characters"),
        ("language_sdk", {"context_sentences": ["so"] * 1001}, r"a context of 1001 sentences"),
        ("language_sdk", [1], r"an entry that is not a dictionary"),
        (
            "covarep_features_sdk",
            {"punchline_features": [[1.0, 2.0, 3.0], [1.0]]},
            r"audio: the steps do not all have 3 feat",
        ),
        ("covarep_features_sdk", {"punchline_features": [[1.0] * 3000] * 100000}, r"100000 steps of 3000 features"),
        ("covarep_features_sdk", {"punchline_features": "abc"}, r"audio: not a list of steps"),
        (
            "covarep_features_sdk",
            {"punchline_features": np.ones((2, 4)), "context_features": [np.ones((1, 3))]},
            r"audio: sentences of 3 and 4 features a step",
        ),
        (
            "covarep_features_sdk",
            {"punchline_features": [], "context_features": [np.ones((200, 3))] * 1000},
            r"audio: 199800 steps of a sample are the same sentences again",
        ),
        ("language_sdk", {"punchline_embedding_indexes": [10**30]}, r"not numbers of 64 bits or less"),
        ("language_sdk", {"punchline_embedding_indexes": None}, r"not a list of steps"),
        ("language_sdk", {"punchline_embedding_indexes": [[]]}, r"not a list of numbers"),
        ("language_sdk", {"context_sentences": 3}, r"a context that is not a list of sentences"),
        ("humor_label_sdk", 2, r"humor is 2, not a class 0..1.*sample 31"),
        ("humor_label_sdk", "yes", r"the label is not a number but str"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path: Path, file: str, value: Any, message: str) -> None:
    content, _ = corpus(2)
    content[file][31] = value
    source = opened(tmp_path, content, STEPS)
    with pytest.raises(DataError, match=message):
        source.load("test", source.splits()["test"][0])
