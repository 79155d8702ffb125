"""Labels of a pooled batch: checked, mapped to the range of their heads, and weighted, in one pass over all corpora.

A **column** is one task of one corpus. The labels of a batch are a flat list, sample after sample and column after
column, so that a check or a mapping is one operation on arrays, however many corpora, tasks and heads there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ivr_dist.planning.pool_layout import PoolLayout

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeadLabels:
    """Labels of B samples by head."""

    labels: dict[str, Tensor]
    """[B] float32 or int64, in the range of the head."""
    masks: dict[str, Tensor]
    """[B] bool, true where the sample has a label."""
    weights: dict[str, Tensor]
    """[B] float32, of the heads whose labels are weighted."""


class LabelColumns:
    """The tasks of all corpora of a pool as columns, with what the checks and the mapping of their labels need.

    Args:
        layout: Layout of the pool.
        class_weights: By corpus and task: [C] weight of each class.
        sample_weights: By corpus: the label that weighs its samples.
    """

    def __init__(
        self,
        layout: PoolLayout,
        class_weights: Mapping[str, Mapping[str, Float32Array]],
        sample_weights: Mapping[str, str],
    ) -> None:
        self._heads = dict(layout.heads)
        self.tasks: list[tuple[str, ...]] = [tuple(corpus.heads) for corpus in layout.corpora]
        """By number of the corpus: its tasks, in the order of its columns."""
        self._counts = np.array([len(tasks) for tasks in self.tasks], np.int64)
        self._firsts = np.cumsum(self._counts) - self._counts
        self._weight_labels = [sample_weights.get(corpus.name) for corpus in layout.corpora]
        specs = [(corpus, corpus.tasks[task], task) for corpus in layout.corpora for task in corpus.heads]
        names = list(layout.heads)
        self._head = np.array([names.index(corpus.heads[task]) for corpus, _, task in specs], np.int64)
        self._is_class = np.array([spec.type != "regression" for _, spec, _ in specs], bool)
        bounds = [
            (-math.inf if spec.low is None else spec.low, math.inf if spec.high is None else spec.high)
            if spec.type == "regression"
            else (0, (spec.classes or 0) - 1)
            for _, spec, _ in specs
        ]
        self._low, self._high = np.array(bounds, np.float64).reshape(len(specs), 2).T
        # As `label_scale.to_head`.
        unit = [layout.scale == "unit" and spec.type == "regression" for _, spec, _ in specs]
        self._is_mapped = np.array(unit, bool) & np.isfinite(self._low) & np.isfinite(self._high)
        width = np.where(self._is_mapped, self._high - self._low, 2.0)
        self._shift, self._factor = np.where(self._is_mapped, self._low, 0.0), 2.0 / width
        self.weighted_heads = tuple(
            head
            for head in names
            if any(
                corpus.heads[task] == head
                and (corpus.name in sample_weights or task in class_weights.get(corpus.name, {}))
                for corpus, _, task in specs
            )
        )
        """Heads of which some corpus weighs its labels; the same in every batch, so that shapes do not change."""
        self._class_weights = np.ones((len(specs), max([1, *(spec.classes or 1 for _, spec, _ in specs)])), np.float32)
        for number, (corpus, _, task) in enumerate(specs):
            weights = class_weights.get(corpus.name, {}).get(task)
            if weights is not None:
                self._class_weights[number, : len(weights)] = weights

    def collate(self, labels: Sequence[Mapping[str, float | None]], corpus: Int64Array) -> HeadLabels | tuple[int, str]:
        """Check and map the labels of B samples.

        Args:
            labels: [B] labels of each sample by task, as stored.
            corpus: [B] number of the corpus of each.

        Returns:
            The labels by head; or, if one is not valid for its task, the first sample and its task.
        """
        numbers = corpus.tolist()
        counts = self._counts[corpus]
        sample = np.repeat(np.arange(len(corpus)), counts)
        column = np.repeat(self._firsts[corpus] - (np.cumsum(counts) - counts), counts) + np.arange(len(sample))
        stored = [own.get(task) for own, number in zip(labels, numbers, strict=True) for task in self.tasks[number]]
        mask = np.array([value is not None for value in stored], bool)
        values = np.array([0.0 if value is None else value for value in stored], np.float64)
        is_class = self._is_class[column]
        valid = (self._low[column] <= values) & (values <= self._high[column])
        valid &= ~is_class | (values == np.floor(values))
        if not (valid | ~mask).all():
            first = int((mask & ~valid).argmax())
            number = int(corpus[sample[first]])
            return int(sample[first]), self.tasks[number][int(column[first] - self._firsts[number])]
        mapped = np.where(self._is_mapped[column], (values - self._shift[column]) * self._factor[column] - 1.0, values)
        shape, place = (len(self._heads), len(corpus)), (self._head[column], sample)
        by_head, masks = np.zeros(shape, np.float64), np.zeros(shape, bool)
        by_head[place], masks[place] = mapped, mask
        real, classes = by_head.astype(np.float32), by_head.astype(np.int64)
        return HeadLabels(
            labels={
                head: torch.from_numpy((real if spec.type == "regression" else classes)[row])
                for row, (head, spec) in enumerate(self._heads.items())
            },
            masks={head: torch.from_numpy(masks[row]) for row, head in enumerate(self._heads)},
            weights=self._weights(labels, numbers, column, sample, np.where(is_class, values, 0).astype(np.int64)),
        )

    def _weights(
        self,
        labels: Sequence[Mapping[str, float | None]],
        corpus: Sequence[int],
        column: Int64Array,
        sample: Int64Array,
        classes: Int64Array,
    ) -> dict[str, Tensor]:
        """[B] weights of the labels of each weighted head."""
        if not self.weighted_heads:
            return {}
        of_sample = np.array(
            [
                1.0 if name is None else max(own.get(name) or 0.0, 0.0)
                for own, name in zip(labels, map(self._weight_labels.__getitem__, corpus), strict=True)
            ],
            np.float32,
        )
        by_head = np.ones((len(self._heads), len(corpus)), np.float32)
        by_head[self._head[column], sample] = of_sample[sample] * self._class_weights[column, classes]
        return {
            head: torch.from_numpy(by_head[row]) for row, head in enumerate(self._heads) if head in self.weighted_heads
        }
