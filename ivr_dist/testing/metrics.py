"""Contract of metrics (`eval.metrics`)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from ivr_dist.evaluation.metric import Metric
from ivr_dist.evaluation.metrics import Floats
from ivr_dist.shards.specs import TaskSpec
from ivr_dist.testing.batches import TASKS

_SAMPLES = 12


class MetricContract(ABC):
    """Tests of a metric: derive a class `TestMine` from it and implement `make`."""

    @abstractmethod
    def make(self) -> Metric:
        """Build the metric as a config would."""

    def cases(self) -> Iterator[tuple[TaskSpec, Floats, Floats]]:
        """Task, labels [N] and predictions [N] or [N, C], of each type of task that the metric is for."""
        generator = np.random.default_rng(0)
        for task in TASKS.values():
            if task.type not in self.make().task_types:
                continue
            if task.type == "regression":
                truth = generator.uniform(-3, 3, _SAMPLES)
                yield task, truth, truth + generator.normal(size=_SAMPLES)
            else:
                classes = np.arange(_SAMPLES, dtype=np.float64) % (task.classes or 2)
                yield task, classes, generator.normal(size=(_SAMPLES, task.classes or 2))

    def test_it_is_a_metric_for_some_type_of_task(self) -> None:
        """It derives from `Metric` and names types of tasks that exist."""
        metric = self.make()
        assert isinstance(metric, Metric)
        assert metric.task_types and set(metric.task_types) <= {"regression", "classification"}

    def test_it_depends_on_nothing_but_its_arguments(self) -> None:
        """Two instances agree, independent of earlier calls, and leave the arrays unchanged."""
        for task, truth, prediction in self.cases():
            metric, before = self.make(), (truth.copy(), prediction.copy())
            value = metric.compute(task, truth, prediction)
            metric.compute(task, truth[:3], prediction[:3])
            assert _same(metric.compute(task, truth, prediction), value)
            assert _same(self.make().compute(task, truth, prediction), value)
            assert np.array_equal(truth, before[0]) and np.array_equal(prediction, before[1])

    def test_the_order_of_the_samples_is_of_no_account(self) -> None:
        """Ranks score a split in another order than one process does."""
        for task, truth, prediction in self.cases():
            order = np.random.default_rng(1).permutation(len(truth))
            value, shuffled = (
                self.make().compute(task, truth[rows], prediction[rows]) for rows in (np.arange(len(truth)), order)
            )
            assert math.isclose(value, shuffled, rel_tol=1e-9, abs_tol=1e-12) or _same(value, shuffled)

    def test_small_and_constant_splits_are_no_error(self) -> None:
        """An undefined value is nan, not an exception."""
        for task, truth, prediction in self.cases():
            float(self.make().compute(task, truth[:1], prediction[:1]))
            float(self.make().compute(task, np.zeros_like(truth), np.zeros_like(prediction)))

    def test_perfect_predictions_are_not_worse(self) -> None:
        """`lower_is_better` matches the direction of the values."""
        for task, truth, prediction in self.cases():
            metric = self.make()
            perfect = truth if task.type == "regression" else np.eye(task.classes or 2)[truth.astype(int)] * 9.0
            best, other = metric.compute(task, truth, perfect), metric.compute(task, truth, prediction)
            assert math.isnan(best) or math.isnan(other) or (best <= other if metric.lower_is_better else best >= other)


def _same(value: float, other: float) -> bool:
    return value == other or (math.isnan(value) and math.isnan(other))
