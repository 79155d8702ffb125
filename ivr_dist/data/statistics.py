"""Mean and standard deviation of features, in one pass and mergeable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_FLOAT32_STEP = float(np.finfo(np.float32).eps)


class RunningStatistics:
    """Mean and standard deviation of each feature over all steps that were added.

    Means and centred sums of squares are kept in float64 and merged pairwise (Chan, Golub and LeVeque 1979), which
    keeps its digits where sums of raw squares lose them.

    Args:
        dim: Features D of a step.
    """

    def __init__(self, dim: int) -> None:
        self.steps = 0
        """Steps seen."""
        self.mean: Float64Array = np.zeros(dim)
        """[D] mean; 0 before the first step."""
        self._squares: Float64Array = np.zeros(dim)

    def add(self, features: npt.NDArray[Any]) -> None:
        """Add steps, [T, D]; T may be 0."""
        steps = len(features)
        if steps:
            # In place: samples are short, so that making arrays costs more than the arithmetic.
            centred = features.astype(np.float64)
            mean = centred.sum(axis=0)
            mean /= steps
            centred -= mean
            self._merge(steps, mean, np.square(centred, out=centred).sum(axis=0))

    def merge(self, other: RunningStatistics) -> None:
        """Add all steps that `other` has seen."""
        if other.steps:
            self._merge(other.steps, other.mean, other._squares)

    def _merge(self, steps: int, mean: Float64Array, squares: Float64Array) -> None:
        total = self.steps + steps
        apart = mean - self.mean
        self._squares += squares
        self.mean += apart * (steps / total)
        apart *= apart
        apart *= self.steps * steps / total
        self._squares += apart
        self.steps = total

    def to_json(self) -> dict[str, Any]:
        """All that was seen, in JSON values; no digit is lost."""
        return {"steps": self.steps, "mean": self.mean.tolist(), "squares": self._squares.tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunningStatistics:
        """What `to_json` gave."""
        found = cls(len(value["mean"]))
        found.steps = value["steps"]
        found.mean = np.array(value["mean"], np.float64)
        found._squares = np.array(value["squares"], np.float64)
        return found

    def deviation(self) -> Float64Array:
        """[D] population standard deviation; 1 for a constant feature, so that dividing by it changes nothing.

        A deviation below the spacing of float32 numbers around the mean is rounding residue, hence constant.
        """
        if not self.steps:
            return np.ones_like(self.mean)
        deviation = np.sqrt(self._squares / self.steps)
        return np.where(deviation > np.abs(self.mean) * _FLOAT32_STEP, deviation, 1.0)
