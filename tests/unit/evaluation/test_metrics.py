"""Metrics against hand-computed cases and slow references in plain Python."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.evaluation import metrics
from ivr_dist.shards.specs import Scale, TaskSpec


def floats(*values: float) -> metrics.Floats:
    return np.array(values, np.float64)


def score(task: TaskSpec, truth: object, prediction: object) -> dict[str, float]:
    return metrics.score(task, np.asarray(truth), np.asarray(prediction))


MOSI = TaskSpec(type="regression", scale="mosi")
SIMS = TaskSpec(type="regression", scale="sims")


def test_mosi_by_hand() -> None:
    truth = [-2.6, -1.0, 0.0, 0.0, 0.4, 1.5, 3.0]
    guess = [-2.4, 0.2, -0.1, 0.1, 0.6, 2.5, 5.0]
    found = score(MOSI, truth, guess)
    assert found["mae"] == pytest.approx((0.2 + 1.2 + 0.1 + 0.1 + 0.2 + 1.0 + 2.0) / 7)  # 5.0 is not clipped
    # Rounded: truth -3 -1 0 0 0 2 3, prediction -2 0 0 0 1 2 3 (1.5 and 2.5 both go to the even 2).
    assert found["acc7"] == pytest.approx(4 / 7)
    # Clipped at 2 first: truth -2 -1 0 0 0 2 2, prediction -2 0 0 0 1 2 2.
    assert found["acc5"] == pytest.approx(5 / 7)
    # Clipped at 1 first: truth -1 -1 0 0 0 1 1, prediction -1 0 0 0 1 1 1.
    assert found["acc3"] == pytest.approx(5 / 7)
    # has0, y >= 0: truth 0 0 1 1 1 1 1, prediction 0 1 0 1 1 1 1.
    assert found["acc2_has0"] == pytest.approx(5 / 7)
    # class 0: TP 1 FP 1 FN 1 -> 1/2; class 1: TP 4 FP 1 FN 1 -> 4/5; supports 2 and 5.
    assert found["f1_has0"] == pytest.approx((2 * 0.5 + 5 * 0.8) / 7)
    # non0, the two 0 dropped: truth 0 0 1 1 1, prediction 0 1 1 1 1.
    assert found["acc2_non0"] == pytest.approx(4 / 5)
    # class 0: TP 1 FN 1 -> 2/3; class 1: TP 3 FP 1 -> 6/7; supports 2 and 3.
    assert found["f1_non0"] == pytest.approx((2 * 2 / 3 + 3 * 6 / 7) / 5)


def test_a_prediction_of_0_is_positive_for_has0_and_negative_for_non0() -> None:
    found = score(MOSI, [1.0, -1.0], [0.0, 0.0])
    assert found["acc2_has0"] == found["acc2_non0"] == 0.5
    assert score(MOSI, [1.0], [0.0])["acc2_has0"] == 1.0
    assert score(MOSI, [1.0], [0.0])["acc2_non0"] == 0.0


def test_mosi_without_clear_samples_has_no_non0() -> None:
    found = score(MOSI, [0.0, 0.0], [0.1, -0.1])
    assert math.isnan(found["acc2_non0"])
    assert math.isnan(found["f1_non0"])
    assert found["acc2_has0"] == 0.5


def test_sims_by_hand() -> None:
    truth = [-1.0, -0.7, -0.1, 0.0, 0.1, 0.7, 0.8]
    guess = [-3.0, -0.6, 0.0, 0.2, 0.1, 0.6, 0.7]
    found = score(SIMS, truth, guess)
    assert found["mae"] == pytest.approx((0 + 0.1 + 0.1 + 0.2 + 0 + 0.1 + 0.1) / 7)  # -3.0 is clipped to -1
    # 0 is negative: truth n n n n p p p, prediction n n n p p p p.
    assert found["acc2"] == pytest.approx(6 / 7)
    assert found["f1"] == pytest.approx((4 * 6 / 7 + 3 * 6 / 7) / 7)
    # Edges -0.1 and 0.1 belong to the lower class: truth 0 0 0 1 1 2 2, prediction 0 0 1 2 1 2 2.
    assert found["acc3"] == pytest.approx(5 / 7)
    # truth 0 0 1 2 2 3 4, prediction 0 1 2 3 2 3 3.
    assert found["acc5"] == pytest.approx(3 / 7)


def test_classification_takes_the_largest_logit() -> None:
    found = score(TaskSpec(type="classification", scale="humor"), [0, 1, 1, 1], [[2, 1], [3, 4], [1, 0], [0, 9]])
    assert found == {"accuracy": 0.75, "f1_weighted": pytest.approx((1 * 2 / 3 + 3 * 4 / 5) / 4)}


def test_emotion_presence() -> None:
    found = score(TaskSpec(type="regression", scale="emotion"), [0, 0, 0, 1 / 3, 2.0], [0.4, 0.2, 0.9, 0.3, 1.0])
    # Present: truth 0 0 0 1 1, prediction 0 0 1 0 1: recall 2/3 and 1/2.
    assert found["wacc_presence"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # class 0: TP 2 FP 1 FN 1 -> 2/3; class 1: TP 1 FP 1 FN 1 -> 1/2.
    assert found["f1_presence"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5)
    logits = score(
        TaskSpec(type="classification", scale="emotion"), [0, 0, 0, 1, 1], [[1, 0], [1, 0], [0, 1], [1, 0], [0, 1]]
    )
    assert logits["wacc_presence"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_generic_regression() -> None:
    assert score(TaskSpec(type="regression"), [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == {
        "mae": 2.0,
        "corr": pytest.approx(1.0),
    }


@pytest.mark.parametrize("scale", ["mosi", "sims", "emotion", "none"])
def test_undefined_is_nan_and_never_raises(scale: Scale) -> None:
    constant = score(TaskSpec(type="regression", scale=scale), [1.0, -1.0, 0.5], [0.1, 0.1, 0.1])
    assert math.isnan(constant["corr"])
    assert not math.isnan(constant["mae"])
    assert all(math.isnan(value) for value in score(TaskSpec(type="regression", scale=scale), [], []).values())
    broken = score(TaskSpec(type="regression", scale=scale), [1.0, -1.0], [math.nan, 1.0])
    assert broken.keys() == constant.keys()
    assert all(math.isnan(value) for value in broken.values())


def test_empty_classification() -> None:
    found = score(TaskSpec(type="classification"), floats(), np.empty((0, 2)))
    assert all(math.isnan(value) for value in found.values())


def test_values_are_plain_floats() -> None:
    for task, prediction in (
        (MOSI, [0.5, -1.0]),
        (SIMS, [0.5, -1.0]),
        (TaskSpec(type="classification"), [[0, 1], [1, 0]]),
    ):
        assert all(type(value) is float for value in score(task, [1, 0], prediction).values())
        json.dumps(score(task, [1, 0], prediction))


def slow_f1(truth: list[int], prediction: list[int]) -> float:
    total = 0.0
    for label in set(truth):
        hits = sum(1 for t, p in zip(truth, prediction, strict=True) if t == p == label)
        precision = hits / claimed if (claimed := prediction.count(label)) else 0.0
        recall = hits / truth.count(label)
        total += truth.count(label) * (2 * precision * recall / (precision + recall) if hits else 0.0)
    return total / len(truth)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_f1_and_weighted_accuracy_equal_a_slow_reference(pairs: list[tuple[int, int]]) -> None:
    truth, prediction = [list(column) for column in zip(*pairs, strict=True)]
    arrays = np.array(truth), np.array(prediction)
    assert metrics.f1_weighted(*arrays) == pytest.approx(slow_f1(truth, prediction), abs=1e-12)
    recalls = [sum(t == p == label for t, p in pairs) / truth.count(label) for label in set(truth)]
    assert metrics.weighted_accuracy(*arrays) == pytest.approx(sum(recalls) / len(recalls))


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=30))
def test_corr_is_a_correlation(pairs: list[tuple[float, float]]) -> None:
    x, y = (floats(*column) for column in zip(*pairs, strict=True))
    value = metrics.corr(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(value)
        return
    assert -1.0 <= value <= 1.0
    assert metrics.corr(y, x) == pytest.approx(value, abs=1e-9)
    if np.ptp(x) > 1e-3 and np.ptp(y) > 1e-3:
        assert value == pytest.approx(float(np.corrcoef(x, y)[0, 1]), abs=1e-6)
        assert metrics.corr(x, -3 * y) == pytest.approx(-value, abs=1e-9)


@given(st.permutations(range(12)))
def test_order_of_samples_does_not_matter(order: list[int]) -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.uniform(-3, 3, 12).round(1), rng.uniform(-3, 3, 12)
    shuffled = score(MOSI, truth[order], prediction[order])
    assert shuffled == pytest.approx(score(MOSI, truth, prediction), abs=1e-12)


def test_better_follows_the_metrics_direction() -> None:
    assert metrics.better("mosi/mae", 0.9, 1.0)
    assert not metrics.better("mae", 1.0, 0.9)
    assert not metrics.better("mae", 1.0, 1.0)
    assert metrics.better("corr", 0.9, 0.8)
    assert not metrics.better("mosei/happy/f1_presence", 0.8, 0.8)
    assert metrics.better("corr", -0.5, None)
    assert metrics.better("corr", -0.5, math.nan)
    assert not metrics.better("corr", math.nan, None)
    assert not metrics.better("mae", math.nan, 1.0)
