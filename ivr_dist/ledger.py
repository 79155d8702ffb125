"""Append-only records of a run, kept as numbered segment files because object stores cannot append.

Two ledgers use it: `audit` (which sample ids each step trained on, by every rank) and `history` (loss and metrics by
step, by rank 0). Records of steps that a later attempt did again are superseded, never rewritten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from ivr_dist import storage
from ivr_dist.attempts import lineage, read_attempts
from ivr_dist.errors import CorruptDataError

AUDIT = "audit"
HISTORY = "history"


class LedgerWriter:
    """One rank's records of one attempt.

    Records wait in memory until they are written as one new segment. That happens before a checkpoint becomes complete,
    so what a checkpoint covers is always in the ledger.
    """

    def __init__(self, run_url: str, ledger: str, attempt: int, rank: int) -> None:
        self._folder = storage.join(run_url, ledger, f"attempt-{attempt:04d}")
        self._rank = rank
        self._segment = 0
        self._lines: list[str] = []

    def append(self, record: dict[str, Any]) -> None:
        """Add one JSON-able record."""
        self._lines.append(json.dumps(record, separators=(",", ":")))

    def cut(self) -> Callable[[], None]:
        """Take what has come in since the last cut; the returned function writes it, from any thread."""
        lines, self._lines = self._lines, []
        if not lines:
            return _nothing
        self._segment += 1
        url = storage.join(self._folder, f"rank-{self._rank:05d}-{self._segment:06d}.jsonl")
        return lambda: storage.write_text(url, "\n".join(lines) + "\n")

    def flush(self) -> None:
        """Write what has come in since the last cut; nothing if there is nothing."""
        self.cut()()


def _nothing() -> None:
    pass


def read_counting(run_url: str, ledger: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The records of the steps that count, as (attempt, rank, record); each record has a `step`."""
    for span in lineage(read_attempts(run_url)):
        folder = storage.join(run_url, ledger, f"attempt-{span.attempt:04d}")
        for name in sorted(storage.list_dir(folder)):
            rank = int(name.split("-")[1])
            for record in _read_segment(storage.join(folder, name)):
                if span.covers(record["step"]):
                    yield span.attempt, rank, record


def read_own(run_url: str, ledger: str, attempt: int, rank: int) -> Iterator[dict[str, Any]]:
    """One rank's records of one attempt, whether they count or not."""
    folder = storage.join(run_url, ledger, f"attempt-{attempt:04d}")
    for name in sorted(storage.list_dir(folder)):
        if name.startswith(f"rank-{rank:05d}-"):
            yield from _read_segment(storage.join(folder, name))


def _read_segment(url: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(storage.read_text(url).splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise CorruptDataError(
                f"line {number} of a ledger segment is not JSON", where=url, remedy="the run cannot be audited"
            ) from error
