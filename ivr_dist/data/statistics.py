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
        if len(features):
            part = RunningStatistics(features.shape[1])
            part.steps = len(features)
            # In place: memory for each intermediate result would cost more than the arithmetic.
            centred = features.astype(np.float64)
            part.mean = centred.sum(axis=0) / len(features)
            centred -= part.mean
            part._squares = np.square(centred, out=centred).sum(axis=0)
            self.merge(part)

    def merge(self, other: RunningStatistics) -> None:
        """Add all steps that `other` has seen."""
        steps = self.steps + other.steps
        if steps:
            apart = other.mean - self.mean
            self.mean = self.mean + apart * (other.steps / steps)
            self._squares = self._squares + other._squares + np.square(apart) * (self.steps * other.steps / steps)
            self.steps = steps

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
