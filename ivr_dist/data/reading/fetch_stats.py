"""Statistics of a fetcher: counts of requests, retries and hedges, and latency quantiles."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

_RECENT = 512
"""Number of requests whose latency is kept."""
_MIN_SAMPLES = 32
"""Number of requests before their latency quantiles are used."""


@dataclass(frozen=True)
class FetchCounts:
    """Totals since the start, and latency of recent requests."""

    requests: int = 0
    """Requested ranges, each counted once, for any number of attempts."""
    bytes: int = 0
    """Bytes read, from storage of any kind."""
    retries: int = 0
    """Attempts after a failed one."""
    hedges: int = 0
    """Hedged requests: second ones, sent because the first was slow."""
    corrupt: int = 0
    """Answers that did not match their checksum."""
    cache_hits: int = 0
    """Ranges found in the disk cache."""
    p50_s: float = 0.0
    """Median latency of recent requests, all attempts and waits included; 0 before the first."""
    p99_s: float = 0.0
    """99th percentile of the same."""


class FetchMeters:
    """Counts the work of a fetcher; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("requests", "bytes", "retries", "hedges", "corrupt", "cache_hits"), 0)
        self._requests: deque[float] = deque(maxlen=_RECENT)
        self._attempts: deque[float] = deque(maxlen=_RECENT)

    def add(self, name: str, count: int = 1) -> None:
        """Increase a count, a field of `FetchCounts`."""
        with self._lock:
            self._counts[name] += count

    def record_request(self, seconds: float, size: int) -> None:
        """Record a range that was read."""
        with self._lock:
            self._counts["requests"] += 1
            self._counts["bytes"] += size
            self._requests.append(seconds)

    def record_attempt(self, seconds: float) -> None:
        """Record an attempt that a server has answered."""
        with self._lock:
            self._attempts.append(seconds)

    def hedge_after_s(self, share: float) -> float | None:
        """Compute the seconds after which a request is hedged: the 99th percentile of recent attempts.

        Args:
            share: Maximum number of hedged requests for each request.

        Returns:
            None before there are enough attempts, and where no further request may be hedged.
        """
        with self._lock:
            if len(self._attempts) < _MIN_SAMPLES or self._counts["hedges"] > share * self._counts["requests"]:
                return None
            return _quantile(self._attempts, 0.99)

    def counts(self) -> FetchCounts:
        """Return the totals and the latency so far."""
        with self._lock:
            times = self._requests
            return FetchCounts(**self._counts, p50_s=_quantile(times, 0.5), p99_s=_quantile(times, 0.99))


def _quantile(values: deque[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0
