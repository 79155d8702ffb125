"""The samples of each step of a run, by part: a pass over a corpus, which of one corpus is an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ivr_dist.data.exclusions import NOTHING, Exclusions
from ivr_dist.data.run_order import RunOrder
from ivr_dist.data.sample_order import EMPTY, Int64Array


class Part(NamedTuple):
    """A pass over a corpus."""

    corpus: str
    """Name of the corpus in a pool; empty where there is one."""
    number: int
    """The pass, 0 for the first; of one corpus, the epoch."""


@dataclass(frozen=True)
class PartNumbers:
    """The samples of one part in one step."""

    trained: Int64Array
    """[n] positions of the samples that are trained, in any order."""
    left_out: Int64Array
    """[m] positions of those that the run leaves out."""


class StepSamples:
    """The samples of each step, numbered from 1.

    Args:
        order: Order of the run.
        sizes: By corpus: samples of its training split.
        pooled: Whether parts are by corpus; otherwise the only corpus has an empty name.
        excluded: By corpus: samples that the run leaves out.
    """

    def __init__(
        self,
        order: RunOrder[Any],
        sizes: Mapping[str, int],
        pooled: bool,
        excluded: Mapping[str, Exclusions] | None = None,
    ) -> None:
        self._order = order
        self._sizes = sizes
        self._pooled = pooled
        self._excluded = excluded or {}
        self._newest: tuple[int, Any] = (1, order.start)

    def epoch(self, step: int) -> int:
        """Return the epoch of a step."""
        epoch: int = self._cursor(step).epoch
        return epoch

    def parts(self, step: int) -> dict[Part, PartNumbers]:
        """Return the samples of a step, by part."""
        batch = self._order.batch(self._cursor(step))
        parts: dict[Part, PartNumbers] = {}
        filled = batch.numbers != EMPTY
        for number, name in enumerate(self._order.corpora):
            own = filled & (batch.corpus == number)
            excluded = self._excluded.get(name, NOTHING)
            for pass_ in np.unique(batch.passes[own]).tolist():
                numbers = batch.numbers[own & (batch.passes == pass_)]
                mask = excluded.mask(numbers)
                part = Part(name if self._pooled else "", pass_)
                parts[part] = PartNumbers(numbers[~mask], numbers[mask])
        return parts

    def is_complete(self, part: Part, counted: range) -> bool:
        """Whether all uses of a part are in these steps."""
        name = part.corpus or self._order.corpora[0]
        size = self._sizes[name]
        before, after = (self._order.uses(step)[name] for step in (counted.start - 1, counted.stop - 1))
        return before <= part.number * size and (part.number + 1) * size <= after

    def size(self, part: Part) -> int:
        """Count the samples of a part that are not left out."""
        name = part.corpus or self._order.corpora[0]
        return self._sizes[name] - len(self._excluded.get(name, NOTHING))

    def _cursor(self, step: int) -> Any:
        # Steps are mostly asked for one after the other.
        newest, cursor = self._newest
        if step == newest + 1:
            self._newest = step, self._order.advance(cursor)
        elif step != newest:
            self._newest = step, self._order.at(step - 1)
        return self._newest[1]
