"""Built-in metrics, and two from outside the package, fulfill the contract."""

from __future__ import annotations

from ivr_dist.evaluation import metrics
from ivr_dist.evaluation.metric import Metric
from ivr_dist.evaluation.metrics import Floats
from ivr_dist.shards.specs import TaskSpec
from ivr_dist.testing.metrics import MetricContract
from tests.extension_parts import Median, WithinHalf


class OfThePackage(Metric):
    def __init__(self, name: str, lower: bool, task_types: tuple[str, ...]) -> None:
        self.name = name
        self.lower_is_better = lower  # type: ignore[misc]
        self.task_types = task_types  # type: ignore[misc]

    def compute(self, task: TaskSpec, truth: Floats, prediction: Floats) -> float:
        return metrics.score(task, truth, prediction)[self.name]


class TestMae(MetricContract):
    def make(self) -> Metric:
        return OfThePackage("mae", True, ("regression",))


class TestCorr(MetricContract):
    def make(self) -> Metric:
        return OfThePackage("corr", False, ("regression",))


class TestF1(MetricContract):
    def make(self) -> Metric:
        return OfThePackage("f1_weighted", False, ("classification",))


class TestWithinHalf(MetricContract):
    def make(self) -> Metric:
        return WithinHalf()


class TestMedian(MetricContract):
    def make(self) -> Metric:
        return Median()
