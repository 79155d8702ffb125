"""Skill and means over corpora, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ivr_dist.evaluation.evaluate import Predictions
from ivr_dist.evaluation.ordered_classes import class_of
from ivr_dist.evaluation.pool_metrics import macro, metric_names, skill
from ivr_dist.evaluation.pool_scores import by_task, score_corpus
from ivr_dist.planning.pool_heads import LossScale
from ivr_dist.planning.pool_layout import CorpusLayout, PoolLayout
from ivr_dist.shards.specs import TaskSpec

SCORE = TaskSpec(type="regression", low=-3.0, high=3.0)
MOOD = TaskSpec(type="classification", classes=3)


def corpus(name: str, held_out: bool = False, **tasks: TaskSpec) -> CorpusLayout:
    return CorpusLayout(name=name, sets={}, tasks=tasks, heads={t: f"head_{t}" for t in tasks}, held_out=held_out)


def layout(scale: LossScale, **of_head: float) -> PoolLayout:
    head = TaskSpec(type="regression", **of_head)  # type: ignore[arg-type]
    return PoolLayout(corpora=(), sets={}, heads={"head_score": head, "head_mood": head}, scale=scale, is_pool=True)


def test_skill_is_measured_against_the_best_constant() -> None:
    truth = np.array([0.0, 1.0, 2.0, 5.0])
    # The median 1.5 errs by 1.5, 0.5, 0.5, 3.5: 1.5 on average.
    assert skill(SCORE, truth, truth) == 1.0
    assert skill(SCORE, truth, np.full(4, 1.5)) == 0.0
    assert skill(SCORE, truth, truth + 0.75) == pytest.approx(0.5)
    assert math.isnan(skill(SCORE, np.ones(3), np.zeros(3))) and math.isnan(skill(SCORE, np.zeros(0), np.zeros(0)))
    classes = np.array([0.0, 0.0, 1.0, 2.0])
    assert skill(MOOD, classes, np.eye(3)[[0, 0, 1, 2]]) == 1.0
    assert skill(MOOD, classes, np.eye(3)[[0, 0, 0, 0]]) == 0.0
    assert skill(MOOD, classes, np.eye(3)[[0, 0, 1, 0]]) == 0.5
    assert math.isnan(skill(MOOD, np.zeros(3), np.eye(3)))


def test_means_are_over_corpora_of_the_means_of_their_tasks() -> None:
    corpora = [corpus("a", score=SCORE, mood=MOOD), corpus("b", score=SCORE), corpus("c", held_out=True, score=SCORE)]
    scores = {
        "a/score/skill": 0.5,
        "a/mood/skill": 0.1,
        "a/score/corr": 0.8,
        "a/mood/accuracy": 0.7,
        "b/skill": 0.9,
        "b/corr": None,
        "heldout/c/skill": -5.0,
    }
    assert macro(scores, corpora) == pytest.approx({"macro/skill": 0.6, "macro/corr": 0.8, "macro/accuracy": 0.7})
    assert macro({}, corpora) == {}
    names = metric_names(corpora, ["mine"])
    assert {"macro/skill", "a/mood/skill", "b/mae", "heldout/c/mae", "heldout/c/mine"} <= set(names)


def test_predictions_of_heads_are_scored_in_the_ranges_of_the_corpus() -> None:
    predictions = Predictions(
        keys=["x", "y"],
        predictions={"head_score": np.array([-1.0, 0.5]), "other": np.zeros(2)},
        labels={"head_score": np.array([-3.0, 1.5]), "other": np.zeros(2)},
        labeled={"head_score": np.array([True, True]), "other": np.zeros(2, bool)},
    )
    own = by_task(predictions, corpus("a", score=SCORE), layout("unit", low=-1.0, high=1.0))
    assert own.predictions["score"].tolist() == [-3.0, 1.5]
    scores = score_corpus(own, corpus("a", score=SCORE))
    assert scores["a/mae"] == 0.0 and scores["a/skill"] == 1.0
    held_out = score_corpus(own, corpus("a", held_out=True, score=SCORE))
    assert set(held_out) == {f"heldout/{name}" for name in scores}


GRADES = TaskSpec(type="classification", classes=3, names=("bad", "so", "good"), ordered=True)


@pytest.mark.parametrize(("scale", "low", "high"), [("unit", -1.0, 1.0), ("native", 0.0, 10.0)])
def test_equal_parts_of_a_range_stand_for_ordered_classes(scale: LossScale, low: float, high: float) -> None:
    """Thirds of [-1, 1] end at -1/3 and 1/3; on a native scale the head's range is divided."""
    units = np.array([-1.5, -0.34, -0.33, 0.33, 0.34, 1.0])
    predictions = Predictions(
        keys=list("abcdef"),
        predictions={"head_mood": low + (units + 1) * (high - low) / 2},
        labels={"head_mood": np.array([0.0, 0.0, 1.0, 2.0, 2.0, 2.0])},
        labeled={"head_mood": np.ones(6, bool)},
    )
    mood = corpus("a", held_out=True, mood=GRADES)
    own = by_task(predictions, mood, layout(scale, low=low, high=high))
    assert own.predictions["mood"] == pytest.approx(units)
    assert class_of(units, 3).tolist() == [0, 0, 1, 1, 2, 2]
    scores = score_corpus(own, mood)
    assert scores["heldout/a/accuracy"] == pytest.approx(5 / 6)
    # The most frequent class is half of the samples.
    assert scores["heldout/a/skill"] == pytest.approx((5 / 6 - 1 / 2) / (1 - 1 / 2))
    expected = np.corrcoef(units, [0, 0, 1, 2, 2, 2])[0, 1]
    assert scores["heldout/a/corr"] == pytest.approx(expected)


def test_a_prediction_that_is_not_finite_has_no_scores() -> None:
    labels = {"head_mood": np.array([0.0, 1.0])}
    predictions = Predictions(
        ["a", "b"], {"head_mood": np.array([0.1, np.nan])}, labels, {"head_mood": np.ones(2, bool)}
    )
    mood = corpus("a", mood=GRADES)
    scores = score_corpus(by_task(predictions, mood, layout("unit", low=-1.0, high=1.0)), mood)
    assert scores["a/accuracy"] is None and scores["a/corr"] is None and scores["a/skill"] is None
