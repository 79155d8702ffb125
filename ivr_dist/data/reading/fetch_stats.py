"""What a fetcher did: counts, and how long requests took."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

_RECENT = 512
"""Requests whose times are kept."""
_ENOUGH = 32
"""Requests after which their times tell something."""


@dataclass(frozen=True)
class FetchCounts:
    """Sums since the start, and the times of recent requests."""

    requests: int = 0
    """Ranges that were asked for, each counted once however often it was tried."""
    bytes: int = 0
    """That were read, from wherever."""
    retries: int = 0
    """Attempts after a failed one."""
    hedges: int = 0
    """Second requests for what a first one took long to bring."""
    corrupt: int = 0
    """Answers that were not what their checksum says."""
    cache_hits: int = 0
    """Ranges found in the disk cache."""
    p50_s: float = 0.0
    """Median time of recent requests, attempts and waits together; 0 before the first."""
    p99_s: float = 0.0


class FetchMeters:
    """Counts what a fetcher does; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("requests", "bytes", "retries", "hedges", "corrupt", "cache_hits"), 0)
        self._requests: deque[float] = deque(maxlen=_RECENT)
        self._attempts: deque[float] = deque(maxlen=_RECENT)

    def add(self, name: str, count: int = 1) -> None:
        """Count something: a field of `FetchCounts`."""
        with self._lock:
            self._counts[name] += count

    def request_took(self, seconds: float, size: int) -> None:
        """A range is there."""
        with self._lock:
            self._counts["requests"] += 1
            self._counts["bytes"] += size
            self._requests.append(seconds)

    def attempt_took(self, seconds: float) -> None:
        """A server has answered one request."""
        with self._lock:
            self._attempts.append(seconds)

    def slow_after(self, share: float) -> float | None:
        """Seconds within which all but one in a hundred recent answers came.

        Args:
            share: Second requests that may be made for each request.

        Returns:
            None before enough is known, and where no second request may be made.
        """
        with self._lock:
            if len(self._attempts) < _ENOUGH or self._counts["hedges"] > share * self._counts["requests"]:
                return None
            return _quantile(self._attempts, 0.99)

    def counts(self) -> FetchCounts:
        """What happened so far."""
        with self._lock:
            times = self._requests
            return FetchCounts(**self._counts, p50_s=_quantile(times, 0.5), p99_s=_quantile(times, 0.99))


def _quantile(values: deque[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0
