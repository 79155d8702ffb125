"""`eval.metrics`: metrics from outside the package beside the built-in ones."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ivr_dist.config import Config, EvalConfig
from ivr_dist.errors import ConfigError, IvrError
from ivr_dist.evaluation.evaluate import Predictions, score
from ivr_dist.evaluation.metric import Metric
from ivr_dist.evaluation.metrics import Floats, better
from ivr_dist.evaluation.registry import configured_metrics, lower_is_better
from ivr_dist.shards.specs import TaskSpec
from tests.extension_parts import Median, WithinHalf

TASKS = {"level": TaskSpec(type="regression", low=-3, high=3), "mood": TaskSpec(type="classification", classes=2)}


class Failing(Metric):
    def compute(self, task: TaskSpec, truth: Floats, prediction: Floats) -> float:
        raise ValueError("nothing to measure")


def predictions(labeled: bool = True, value: float = 0.0) -> Predictions:
    return Predictions(
        keys=["a", "b", "c"],
        predictions={"level": np.array([value, 1.0, 2.0]), "mood": np.zeros((3, 2))},
        labels={"level": np.array([0.2, 1.9, 2.1]), "mood": np.zeros(3)},
        labeled={"level": np.array([labeled] * 3), "mood": np.ones(3, bool)},
    )


def test_they_stand_beside_the_others_where_they_are_defined() -> None:
    made = configured_metrics(Config(eval=EvalConfig(metrics={"close": "tests.extension_parts:WithinHalf"})))
    found = score(predictions(), "films", TASKS, made)
    assert found["films/level/close"] == pytest.approx(2 / 3)
    assert found["films/level/mae"] == pytest.approx(1.2 / 3)
    assert "films/mood/close" not in found
    assert score(predictions(), "films", TASKS) == {k: v for k, v in found.items() if not k.endswith("/close")}


@pytest.mark.parametrize("case", [predictions(labeled=False), predictions(value=np.nan)])
def test_without_labels_or_finite_predictions_they_are_undefined(case: Predictions) -> None:
    found = score(case, "films", TASKS, {"close": WithinHalf()})
    assert found["films/level/close"] is None


def test_the_best_score_follows_the_metrics_direction() -> None:
    lower = lower_is_better({"median": Median(), "close": WithinHalf()})
    assert lower == {"mae", "loss", "median"}
    assert better("films/level/median", 0.1, 0.2, lower) and not better("films/level/close", 0.1, 0.2, lower)


def test_one_that_fails_is_named() -> None:
    with pytest.raises(IvrError, match=r"Failing failed: ValueError: nothing to measure \(eval\.metrics\.mine\)"):
        score(predictions(), "films", TASKS, {"mine": Failing()})


class Changing(Metric):
    def compute(self, task: TaskSpec, truth: Floats, prediction: Floats) -> float:
        truth[:] = 0
        return 0.0


def test_one_that_changes_its_arguments_is_refused() -> None:
    with pytest.raises(IvrError, match=r"Changing failed: ValueError: assignment destination is read-only"):
        score(predictions(), "films", TASKS, {"mine": Changing()})


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("regression", "task_types = 'regression' is not a tuple of names"),
        (("regresion",), "task_types names regresion, which is not a type of task"),
    ],
)
def test_types_of_tasks_are_names_that_exist(value: object, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WithinHalf, "task_types", value)
    with pytest.raises(ConfigError, match=re.escape(f"tests.extension_parts:WithinHalf: {error} (eval.metrics.x); ")):
        configured_metrics(Config(eval=EvalConfig(metrics={"x": "tests.extension_parts:WithinHalf"})))


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Contrast is not a metric \(eval\.metrics\.x\); derive it from ivr_dist\."):
        configured_metrics(Config(eval=EvalConfig(metrics={"x": "tests.extension_parts:Contrast"})))
