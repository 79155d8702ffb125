"""The metric protocol: what a metric of `eval.metrics` is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from ivr_dist.evaluation.metrics import Floats
from ivr_dist.shards.specs import TaskSpec


class Metric(ABC):
    """A metric of one task over all labelled samples of a split. Derive from it and implement `compute`.

    It keeps nothing from call to call; every rank calls it with the same arrays.
    """

    lower_is_better: ClassVar[bool] = False
    """Whether a smaller value is the better one, for `train.monitor`."""
    task_types: ClassVar[tuple[str, ...]] = ("regression", "classification")
    """Types of tasks that it is defined for; it is left out for others."""

    @abstractmethod
    def compute(self, task: TaskSpec, truth: Floats, prediction: Floats) -> float:
        """The metric's value.

        Args:
            task: What is predicted.
            truth: [N] labels, N at least 1; classes as whole numbers.
            prediction: [N] values of a regression, or [N, C] logits of a classification; finite.

        Returns:
            The value; nan where it is undefined, such as a correlation of constants.
        """
