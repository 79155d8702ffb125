"""Which losses are taken for a fault: those that are not finite, and those far above the recent ones."""

from __future__ import annotations

import math
import statistics
from collections import deque

WINDOW = 64
_FEWEST = 16


class LossSpikeDetector:
    """Judges the loss of one step after the other, from values that all ranks share.

    Args:
        factor: A loss above `factor` times the median of the last `WINDOW` steps that passed is a spike; None: none is.
    """

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def check(self, loss: float) -> str:
        """What is wrong with a loss; empty if nothing is. Before `_FEWEST` steps have passed nothing is a spike."""
        if not math.isfinite(loss):
            return "the loss is not finite"
        if self._factor is None or len(self._recent) < _FEWEST:
            return ""
        median = statistics.median(self._recent)
        if median > 0 and loss > self._factor * median:
            return f"the loss {loss:.4g} is {loss / median:.1f} times the recent median"
        return ""

    def record(self, loss: float) -> None:
        """Take a loss into account: its step counted."""
        self._recent.append(loss)
