"""Mean and standard deviation of features, in one pass and mergeable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_FLOAT32_STEP = float(np.finfo(np.float32).eps)
_GATHERED = 1 << 17
"""Values that are gathered before they are looked at: of a few steps, calling numpy costs more than the arithmetic."""


class RunningStatistics:
    """Mean and standard deviation of each feature over all steps that were added.

    Means and centred sums of squares are kept in float64 and merged pairwise (Chan, Golub and LeVeque 1979), which
    keeps its digits where sums of raw squares lose them.

    Args:
        dim: Features D of a step.
    """

    def __init__(self, dim: int) -> None:
        self._steps = 0
        self._mean: Float64Array = np.zeros(dim)
        self._squares: Float64Array = np.zeros(dim)
        self._gathered: Float64Array = np.empty((0, dim))
        self._filled = 0

    @property
    def steps(self) -> int:
        """Steps seen."""
        self._look()
        return self._steps

    @property
    def mean(self) -> Float64Array:
        """[D] mean; 0 before the first step."""
        self._look()
        return self._mean

    def add(self, features: npt.NDArray[Any]) -> None:
        """Add steps, [T, D]; T may be 0."""
        if features.size >= _GATHERED:
            self._look()
            self._take(features.astype(np.float64))
            return
        if self._filled + len(features) > len(self._gathered):
            self._look()
            if not len(self._gathered):
                self._gathered = np.empty((_GATHERED // len(self._mean), len(self._mean)))
        end = self._filled + len(features)
        self._gathered[self._filled : end] = features
        self._filled = end

    def merge(self, other: RunningStatistics) -> None:
        """Add all steps that `other` has seen."""
        self._look()
        if other.steps:
            self._merge(other._steps, other._mean, other._squares)

    def _look(self) -> None:
        """Take in what was gathered."""
        self._take(self._gathered[: self._filled])
        self._filled = 0

    def _take(self, steps: Float64Array) -> None:
        """Take in steps [T, D], which are overwritten."""
        if len(steps):
            mean = steps.mean(axis=0)
            steps -= mean
            self._merge(len(steps), mean, np.square(steps, out=steps).sum(axis=0))

    def _merge(self, steps: int, mean: Float64Array, squares: Float64Array) -> None:
        total = self._steps + steps
        apart = mean - self._mean
        self._mean += apart * (steps / total)
        self._squares += squares + np.square(apart) * (self._steps * steps / total)
        self._steps = total

    def __getstate__(self) -> dict[str, Any]:
        self._look()
        return {**self.__dict__, "_gathered": self._gathered[:0].copy()}

    def to_json(self) -> dict[str, Any]:
        """All that was seen, in JSON values; no digit is lost."""
        self._look()
        return {"steps": self._steps, "mean": self._mean.tolist(), "squares": self._squares.tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunningStatistics:
        """What `to_json` gave."""
        found = cls(len(value["mean"]))
        found._steps = value["steps"]
        found._mean = np.array(value["mean"], np.float64)
        found._squares = np.array(value["squares"], np.float64)
        return found

    def deviation(self) -> Float64Array:
        """[D] population standard deviation; 1 for a constant feature, so that dividing by it changes nothing.

        A deviation below the spacing of float32 numbers around the mean is rounding residue, hence constant.
        """
        self._look()
        if not self._steps:
            return np.ones_like(self._mean)
        deviation = np.sqrt(self._squares / self._steps)
        return np.where(deviation > np.abs(self._mean) * _FLOAT32_STEP, deviation, 1.0)
