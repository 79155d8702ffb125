"""Running mean and standard deviation of features: one pass, numerically stable, mergeable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_FLOAT32_STEP = float(np.finfo(np.float32).eps)
_BUFFERED = 1 << 17
"""Values that are buffered before they are summed: for a few steps, calling numpy costs more than the arithmetic."""


class RunningStatistics:
    """Mean and standard deviation of each feature over all time steps that were added.

    Means and centered sums of squares are kept in float64 and merged pairwise (Chan, Golub and LeVeque 1979), which
    avoids the cancellation of sums of raw squares.

    Args:
        dim: Features D of a time step.
    """

    def __init__(self, dim: int) -> None:
        self._steps = 0
        self._mean: Float64Array = np.zeros(dim)
        self._squares: Float64Array = np.zeros(dim)
        self._buffer: Float64Array = np.empty((0, dim))
        self._filled = 0

    @property
    def steps(self) -> int:
        """Number of time steps added."""
        self._flush()
        return self._steps

    @property
    def mean(self) -> Float64Array:
        """[D] mean; 0 before the first step."""
        self._flush()
        return self._mean

    def add(self, features: npt.NDArray[Any]) -> None:
        """Add time steps [T, D]; T may be 0."""
        if features.size >= _BUFFERED:
            self._flush()
            self._sum(features.astype(np.float64))
            return
        if self._filled + len(features) > len(self._buffer):
            self._flush()
            if not len(self._buffer):
                self._buffer = np.empty((_BUFFERED // len(self._mean), len(self._mean)))
        end = self._filled + len(features)
        self._buffer[self._filled : end] = features
        self._filled = end

    def merge(self, other: RunningStatistics) -> None:
        """Add all time steps that were added to `other`."""
        self._flush()
        if other.steps:
            self._merge(other._steps, other._mean, other._squares)

    def _flush(self) -> None:
        """Sum the buffered steps."""
        self._sum(self._buffer[: self._filled])
        self._filled = 0

    def _sum(self, steps: Float64Array) -> None:
        """Sum time steps [T, D], which are overwritten."""
        if len(steps):
            mean = steps.mean(axis=0)
            steps -= mean
            self._merge(len(steps), mean, np.square(steps, out=steps).sum(axis=0))

    def _merge(self, steps: int, mean: Float64Array, squares: Float64Array) -> None:
        total = self._steps + steps
        difference = mean - self._mean
        self._mean += difference * (steps / total)
        self._squares += squares + np.square(difference) * (self._steps * steps / total)
        self._steps = total

    def __getstate__(self) -> dict[str, Any]:
        self._flush()
        return {**self.__dict__, "_buffer": self._buffer[:0].copy()}

    def to_json(self) -> dict[str, Any]:
        """Encode as JSON values, without losing a digit."""
        self._flush()
        return {"steps": self._steps, "mean": self._mean.tolist(), "squares": self._squares.tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunningStatistics:
        """Decode the result of `to_json`."""
        statistics = cls(len(value["mean"]))
        statistics._steps = value["steps"]
        statistics._mean = np.array(value["mean"], np.float64)
        statistics._squares = np.array(value["squares"], np.float64)
        return statistics

    def deviation(self) -> Float64Array:
        """Compute the population standard deviation [D]; 1 for a constant feature, so that it can be divided by.

        A feature counts as constant if its deviation is below the spacing of float32 numbers around the mean, because
        that is rounding error.
        """
        self._flush()
        if not self._steps:
            return np.ones_like(self._mean)
        deviation = np.sqrt(self._squares / self._steps)
        return np.where(deviation > np.abs(self._mean) * _FLOAT32_STEP, deviation, 1.0)
