"""Streaming summaries of lengths, labels, features, tokens and provenance, computed in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist.shards.running_statistics import RunningStatistics
from ivr_dist.shards.specs import TaskSpec

_LENGTH_BINS = 24
_LABEL_BINS = 13
_MAX_DISTINCT = 10_000


@dataclass(frozen=True)
class Histogram:
    """Counts per bin."""

    edges: list[float]
    """[bins + 1]; a bin includes its lower edge, not its upper one. For classes: -0.5, 0.5, 1.5, ..."""
    counts: list[int]
    """[bins]."""


@dataclass(frozen=True)
class Spread:
    """Distribution of integers. A quantile q is the smallest number that a share q of them does not exceed."""

    count: int
    min: int
    median: int
    mean: float
    p95: int
    max: int
    histogram: Histogram


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of each feature (column) of a modality, all [D]."""

    mean: list[float]
    std: list[float]
    min: list[float]
    max: list[float]


@dataclass(frozen=True)
class FeatureValues:
    """Statistics of one modality of feature vectors over the steps that were read."""

    steps: int
    nonfinite: int
    """Number of non-finite values; all other fields leave out the steps that contain one."""
    zero_steps: int
    """Steps that are all zeros, such as padding."""
    min: float
    max: float
    mean: float
    std: float
    """Of all features together."""
    constant: list[int]
    """Features (columns) with the same value in all steps."""
    columns: ColumnStatistics


@dataclass(frozen=True)
class TokenValues:
    """Statistics of one modality of token ids over the steps that were read."""

    steps: int
    min: int
    max: int
    distinct: int


@dataclass(frozen=True)
class LabelSummary:
    """Statistics of the labels of one task over the samples that were read."""

    task: TaskSpec
    labelled: int
    missing: int
    min: float | None
    """None if no sample has a label, like all fields below."""
    max: float | None
    mean: float | None
    std: float | None
    histogram: Histogram | None


@dataclass(frozen=True)
class FieldSummary:
    """Statistics of one key of the provenance over the samples that were read."""

    samples: int
    """Samples that have the key."""
    distinct: int
    """Number of distinct values."""
    more: bool
    """Whether there are more distinct values than were counted."""
    examples: list[str]
    """The first few values, as JSON."""


class LengthCounts:
    """Number of sequences of each length."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def add(self, lengths: npt.NDArray[Any]) -> None:
        """Count some lengths, [n]."""
        values, counts = np.unique(lengths, return_counts=True)
        self.counts.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def spread(self, edges: Sequence[float]) -> Spread | None:
        """Return the distribution, with a histogram over these bins; None if nothing was counted."""
        if not self.counts:
            return None
        values = np.array(sorted(self.counts), np.int64)
        counts = np.array([self.counts[value] for value in values.tolist()], np.int64)
        total = int(counts.sum())
        reached = np.cumsum(counts)
        median, p95 = (int(values[np.searchsorted(reached, share * total)]) for share in (0.5, 0.95))
        return Spread(
            count=total,
            min=int(values[0]),
            median=median,
            mean=float(values @ counts) / total,
            p95=p95,
            max=int(values[-1]),
            histogram=Histogram(list(edges), np.histogram(values, edges, weights=counts)[0].astype(int).tolist()),
        )


def length_edges(counts: Iterable[LengthCounts]) -> list[float]:
    """Choose bins of integers that cover all of these lengths, so that their histograms can be compared."""
    lengths = {value for each in counts for value in each.counts} or {0}
    width = max(1, round(_nice_step(max(lengths) - min(lengths) + 1, _LENGTH_BINS)))
    first = min(lengths) // width * width
    return [float(edge) for edge in range(first, max(lengths) + 1 + width, width)]


def label_edges(task: TaskSpec, values: npt.NDArray[np.float64]) -> list[float] | None:
    """Choose bins for the labels of a task: its classes, or intervals around round numbers; None without any number."""
    if task.type == "classification":
        return [number - 0.5 for number in range((task.classes or 0) + 1)]
    ends = [*values.tolist(), *(end for end in (task.low, task.high) if end is not None)]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    step = _nice_step(high - low, _LABEL_BINS) if high > low else 1.0
    first, last = math.floor(low / step + 0.5), math.floor(high / step + 0.5)
    return [float(f"{(number - 0.5) * step:.12g}") for number in range(first, last + 2)]


def summarize_labels(
    task: TaskSpec, values: npt.NDArray[np.float64], missing: int, edges: Sequence[float] | None
) -> LabelSummary:
    """Summarize the labels of a task, with a histogram over these bins."""
    has_values = len(values) > 0
    return LabelSummary(
        task=task,
        labelled=len(values),
        missing=missing,
        min=float(values.min()) if has_values else None,
        max=float(values.max()) if has_values else None,
        mean=float(values.mean()) if has_values else None,
        std=float(values.std()) if has_values else None,
        histogram=Histogram(list(edges), np.histogram(values, edges)[0].tolist()) if edges is not None else None,
    )


class FeatureCollector:
    """Collects statistics of one modality of feature vectors.

    Args:
        dim: Number of features D of a step.
    """

    def __init__(self, dim: int) -> None:
        self._running = RunningStatistics(dim)
        self._min = np.full(dim, np.inf)
        self._max = np.full(dim, -np.inf)
        self._steps = self._nonfinite = self._zero_steps = 0

    def add(self, steps: npt.NDArray[Any]) -> None:
        """Add steps, [T, D]."""
        finite = np.isfinite(steps)
        clean = steps[finite.all(axis=1)]
        self._steps += len(steps)
        self._nonfinite += int(finite.size - np.count_nonzero(finite))
        self._zero_steps += int(np.count_nonzero(~clean.any(axis=1)))
        if len(clean):
            self._running.add(clean)
            self._min = np.minimum(self._min, clean.min(axis=0))
            self._max = np.maximum(self._max, clean.max(axis=0))

    def summary(self) -> FeatureValues | None:
        """Return the statistics; None if no step has finite values only."""
        if not self._running.steps:
            return None
        mean, constant = self._running.mean, self._min == self._max
        std = np.where(constant, 0.0, self._running.deviation())
        # Law of total variance: the mean of the variances plus the variance of the means.
        overall = math.sqrt(float(np.square(std).mean() + mean.var()))
        columns = ColumnStatistics(mean.tolist(), std.tolist(), self._min.tolist(), self._max.tolist())
        return FeatureValues(
            steps=self._steps,
            nonfinite=self._nonfinite,
            zero_steps=self._zero_steps,
            min=float(self._min.min()),
            max=float(self._max.max()),
            mean=float(mean.mean()),
            std=overall,
            constant=np.flatnonzero(constant).tolist(),
            columns=columns,
        )


class TokenCollector:
    """Collects statistics of one modality of token ids."""

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._steps = 0

    def add(self, ids: npt.NDArray[Any]) -> None:
        """Add ids, [T]."""
        self._steps += len(ids)
        self._ids.update(np.unique(ids).tolist())

    def summary(self) -> TokenValues | None:
        """Return the statistics; None if no id was added."""
        if not self._ids:
            return None
        return TokenValues(self._steps, min(self._ids), max(self._ids), len(self._ids))


class FieldCollector:
    """Collects the values of one key; distinct values are counted up to a limit."""

    def __init__(self) -> None:
        self._samples = 0
        self._values: dict[str, None] = {}
        self._more = False

    def add(self, value: str) -> None:
        """Add the value of a sample, as JSON."""
        self._samples += 1
        if len(self._values) < _MAX_DISTINCT:
            self._values[value] = None
        else:
            self._more |= value not in self._values

    def summary(self) -> FieldSummary:
        """Return the statistics."""
        return FieldSummary(self._samples, len(self._values), self._more, list(self._values)[:3])


def _nice_step(span: float, most: int) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that divides the span into at most `most` parts."""
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= most * (1 + 1e-9))
