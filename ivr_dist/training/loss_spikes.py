"""Loss spike detection: losses that are not finite, or far above the recent median (decision 031)."""

from __future__ import annotations

import math
import statistics
from collections import deque

WINDOW = 64
_FEWEST = 16


class LossSpikeDetector:
    """Checks the loss of each step; its inputs are equal on all ranks.

    Args:
        factor: A loss above `factor` times the median of the last `WINDOW` recorded losses is a spike; None: only
            losses that are not finite fail.
    """

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def check(self, loss: float) -> str:
        """Check a loss; return why it fails, empty if it passes. The first `_FEWEST` losses are never spikes."""
        if not math.isfinite(loss):
            return "the loss is not finite"
        if self._factor is None or len(self._recent) < _FEWEST:
            return ""
        median = statistics.median(self._recent)
        if median > 0 and loss > self._factor * median:
            return f"the loss {loss:.4g} is {loss / median:.1f} times the recent median"
        return ""

    def record(self, loss: float) -> None:
        """Add the loss of a step that was not discarded to the window."""
        self._recent.append(loss)
