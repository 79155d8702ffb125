"""Splits that a pooled model scores: the corpus they are of, and corpora that are new to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from ivr_dist.errors import DataError
from ivr_dist.evaluation.scored_corpus import corpus_of, native, new_corpus_notes, with_new_corpus
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import FeatureSpec, Statistics, TaskSpec
from tests.pooled_batches import LAYOUT, MOOD, SCORE, SENTIMENT, SPEC

STANDARDIZED = ("audio", "vision")


def split(
    sets: Mapping[str, str], tasks: Mapping[str, TaskSpec], corpus: str = "new", mean: float | None = None
) -> Manifest:
    widths = {"text": 6, "audio": 5, "vision": 4}
    features = {
        modality: FeatureSpec(set=own, dim=widths[modality], dtype="float32", kind="features")
        for modality, own in sets.items()
    }
    statistics = {
        modality: Statistics(mean=[mean or 0.0] * widths[modality], std=[2.0] * widths[modality], steps=9)
        for modality in sets
        if mean is not None
    }
    return Manifest.create(
        corpus=corpus, split="test", seed=0, features=features, tasks=tasks, shards=[], statistics=statistics
    )


TALKS = {"text": "glove.6b", "audio": "covarep", "vision": "facet"}


def test_a_split_is_of_the_corpus_with_its_sets_and_tasks() -> None:
    assert corpus_of(LAYOUT, split(TALKS, {"sentiment": SENTIMENT})).name == "talks"
    assert corpus_of(LAYOUT, split(TALKS, {"sentiment": SENTIMENT}), "calls").name == "calls"
    with pytest.raises(DataError, match=r"features and tasks of no corpus .*--head sentiment"):
        corpus_of(LAYOUT, split(TALKS, {"sentiment": SCORE}))
    with pytest.raises(DataError, match=r"the model knows no corpus nobody .*give one of talks, calls, clips, posts"):
        corpus_of(LAYOUT, split(TALKS, {}), "nobody")


def test_a_new_corpus_is_read_by_the_sets_and_a_head_of_the_others() -> None:
    new = split({"audio": "covarep", "vision": "unknown"}, {"valence": SCORE})
    spec, number = with_new_corpus(SPEC, new, "sentiment", None, STANDARDIZED)
    corpus = spec.layout.corpora[number]
    assert number == 4 and corpus.held_out and corpus.name == "new"
    assert corpus.sets == {"audio": "covarep"} and corpus.heads == {"valence": "sentiment"}
    for one, other in zip(spec.statistics["new"]["audio"], SPEC.statistics["talks"]["audio"], strict=True):
        assert np.array_equal(one, other), "an earlier checkpoint: those of the first corpus with the set"
    merged = {"audio": {"covarep": (np.full(5, 3.0, np.float32), np.full(5, 4.0, np.float32))}}
    of_set, _ = with_new_corpus(replace(SPEC, set_statistics=merged), new, "sentiment", None, STANDARDIZED)
    assert of_set.statistics["new"]["audio"] is merged["audio"]["covarep"]
    own, _ = with_new_corpus(SPEC, new, "sentiment", split({"audio": "covarep"}, {}, mean=7.0), STANDARDIZED)
    assert own.statistics["new"]["audio"][0].tolist() == [7.0] * 5
    assert native(own).layout.scale == "native"


@pytest.mark.parametrize(
    ("tasks", "head", "text"),
    [
        ({"valence": SCORE}, "joy", "the model has no head joy .*use one of sentiment, mood"),
        (
            {"valence": SCORE},
            "mood",
            r"no task of the split is a classification of 3 classes \(bad,so,good\), as head mood",
        ),
        ({"mood": replace(MOOD, names=("good", "so", "bad"))}, "mood", "no task of the split is a classification of 3"),
        ({"valence": TaskSpec(type="regression")}, "sentiment", r"valence has no range, to which the predictions"),
    ],
)
def test_a_new_corpus_that_the_head_cannot_score_is_refused(
    tasks: Mapping[str, TaskSpec], head: str, text: str
) -> None:
    with pytest.raises(DataError, match=text):
        with_new_corpus(SPEC, split({"audio": "covarep"}, tasks), head, None, STANDARDIZED)


def test_a_regression_scores_classes_that_the_card_calls_ordered() -> None:
    new = split({"audio": "covarep"}, {"mood": replace(MOOD, ordered=True)})
    spec, number = with_new_corpus(SPEC, new, "sentiment", None, STANDARDIZED)
    assert spec.layout.corpora[number].heads == {"mood": "sentiment"}
    with pytest.raises(DataError, match=r"is a regression, as head sentiment .*classes that the card calls ordered"):
        with_new_corpus(SPEC, split({"audio": "covarep"}, {"mood": MOOD}), "sentiment", None, STANDARDIZED)


def test_a_split_is_known_by_the_name_of_its_corpus_where_the_config_renames_its_sets() -> None:
    renamed = replace(LAYOUT.corpora[0], name="new", sets={**LAYOUT.corpora[0].sets, "audio": "covarep_new"})
    sets = {**LAYOUT.sets, "audio": {**LAYOUT.sets["audio"], "covarep_new": LAYOUT.sets["audio"]["covarep"]}}
    layout = replace(LAYOUT, corpora=(*LAYOUT.corpora, renamed), sets=sets)
    assert corpus_of(layout, split(TALKS, {"sentiment": SENTIMENT}, "new")).name == "new"
    wide = {**sets, "audio": {**sets["audio"], "covarep_new": ("features", 99)}}
    assert corpus_of(replace(layout, sets=wide), split(TALKS, {"sentiment": SENTIMENT}, "new")).name == "talks"


def test_notes_of_a_new_corpus_name_what_is_missing_and_whose_statistics_are_used() -> None:
    new = split({"audio": "covarep", "vision": "unknown"}, {"valence": SCORE})
    notes = new_corpus_notes(SPEC, new, None)
    assert notes == [
        "vision counts as missing: no corpus of the model has the feature set unknown",
        "audio is standardized as in the model's corpora; --statistics names data of its own",
    ]
    assert new_corpus_notes(SPEC, new, split({"audio": "covarep"}, {}, mean=7.0)) == notes[:1]


def test_a_set_of_a_known_name_and_another_width_is_refused() -> None:
    new = split({"audio": "covarep"}, {"valence": SCORE})
    wide = replace(new, features={"audio": replace(new.features["audio"], dim=9)})
    with pytest.raises(DataError, match="audio covarep of the split has 9 features, the model reads 5"):
        with_new_corpus(SPEC, wide, "sentiment", None, STANDARDIZED)


def test_a_new_corpus_without_a_set_that_the_model_reads_is_refused() -> None:
    with pytest.raises(DataError, match="the split has audio opensmile, none of which the model reads"):
        with_new_corpus(SPEC, split({"audio": "opensmile"}, {"valence": SCORE}), "sentiment", None, STANDARDIZED)
