"""The metric protocol: base class of the metrics of `eval.metrics`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from ivr_dist.evaluation.metrics import Floats
from ivr_dist.shards.specs import TaskSpec


class Metric(ABC):
    """A metric of one task over all labeled samples of a split. Derive from it and implement `compute`.

    It must be stateless; every rank calls it with the same arrays.
    """

    lower_is_better: ClassVar[bool] = False
    """Whether smaller is better, for `train.monitor`."""
    task_types: ClassVar[tuple[str, ...]] = ("regression", "classification")
    """Task types it is defined for; it is not computed for others."""

    @abstractmethod
    def compute(self, task: TaskSpec, truth: Floats, prediction: Floats) -> float:
        """Compute the metric.

        Args:
            task: The task's specification.
            truth: [N] labels, N at least 1; classes as whole numbers.
            prediction: [N] values of a regression, or [N, C] logits of a classification; finite.

        Returns:
            The value; nan where it is undefined, such as a correlation of constants.
        """
