"""The samples of a pooled micro-batch as rows of samples that were read together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ivr_dist.shards.sample_columns import Samples

T = TypeVar("T")
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PooledRows:
    """The samples of a micro-batch, B of them in slot order, as rows of samples that were read together."""

    parts: Sequence[Samples]
    """Samples that were read, of one layout in each part."""
    part: Int64Array
    """[B] part that holds each sample."""
    rows: Int64Array
    """[B] row of each sample in its part."""
    corpus: Int64Array
    """[B] number of the corpus of each sample."""

    @classmethod
    def of_corpus(cls, samples: Samples, number: int) -> PooledRows:
        """Return all samples of one corpus, in their order."""
        rows = np.arange(len(samples))
        return cls([samples], np.zeros_like(rows), rows, np.full_like(rows, number))

    def __len__(self) -> int:
        return len(self.corpus)

    def subset(self, places: Int64Array) -> PooledRows:
        """Return the samples at some places of the micro-batch, ascending."""
        if len(places) == len(self):
            return self
        return PooledRows(self.parts, self.part[places], self.rows[places], self.corpus[places])

    def used_parts(self) -> list[Samples]:
        """Return the parts that hold a sample of the micro-batch."""
        if self._run is not None:
            return [self.parts[self._run[0]]]
        return [self.parts[part] for part in dict.fromkeys(part for part, _ in self._pairs)]

    def locate(self, place: int) -> tuple[Samples, int]:
        """Return the part that holds a sample, and its row in it."""
        return self.parts[int(self.part[place])], int(self.rows[place])

    def take(self, column: Callable[[Samples], Sequence[T]]) -> Sequence[T]:
        """Return one value of each sample, [B].

        Args:
            column: Returns the values of all samples of a part.
        """
        if self._run is not None:
            part, first, end = self._run
            return column(self.parts[part])[first:end]
        columns = {part: column(self.parts[part]) for part in {part for part, _ in self._pairs}}
        return [columns[part][row] for part, row in self._pairs]

    @cached_property
    def _run(self) -> tuple[int, int, int] | None:
        """Part, first row and end, if the samples are successive rows of one part; None otherwise."""
        if not len(self):
            return None
        part, first, end = int(self.part[0]), int(self.rows[0]), int(self.rows[0]) + len(self)
        if (self.part != part).any() or (self.rows != np.arange(first, end)).any():
            return None
        return part, first, end

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        """[B] part and row of each sample."""
        return list(zip(self.part.tolist(), self.rows.tolist(), strict=True))
