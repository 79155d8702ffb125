"""Append-only ledgers of a run, as numbered segment files because object stores cannot append (decision 005).

Two ledgers use it: `audit` (which sample ids each step trained on, by every rank) and `history` (loss and metrics by
step, by rank 0). Records of steps that a later attempt repeated are superseded, never rewritten.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ivr_dist import storage
from ivr_dist.errors import CorruptDataError
from ivr_dist.run.attempts import lineage, read_attempts
from ivr_dist.run.paths import LEDGER_FOLDER_NAME, LEDGER_SEGMENT_NAME, RunPaths


class LedgerWriter:
    """One rank's records of one attempt.

    Records are buffered in memory until they are written as one new segment; after a failed write they stay buffered,
    and the next write retries. Segments are written before a checkpoint becomes complete, so the ledger always has the
    steps that a checkpoint covers.
    """

    def __init__(self, run_url: str, ledger: str, attempt: int, rank: int) -> None:
        self._url_of = partial(RunPaths(run_url).ledger_segment, ledger, attempt, rank)
        self._cuts = 0
        self._lines: list[str] = []
        self._unwritten: deque[tuple[int, list[str]]] = deque()
        """Closed segments that are not written yet: number and lines."""
        self._writing = threading.Lock()

    def append(self, record: dict[str, Any]) -> None:
        """Add one JSON-able record."""
        self._lines.append(json.dumps(record, separators=(",", ":")))

    def cut(self) -> Callable[[], None]:
        """Close a segment with the records since the last cut.

        Returns:
            A function that writes all unwritten segments up to this one, callable from any thread. It raises
            StorageError if a write fails, and may then be called again, as may the function of a later cut.
        """
        if self._lines:
            self._cuts += 1
            self._unwritten.append((self._cuts, self._lines))
            self._lines = []
        last = self._cuts
        return lambda: self._write(last)

    def flush(self) -> None:
        """Write all buffered records.

        Raises:
            StorageError: A write failed.
        """
        self.cut()()

    def _write(self, last: int) -> None:
        with self._writing:
            while self._unwritten and self._unwritten[0][0] <= last:
                segment, lines = self._unwritten[0]
                # Always under the same name: a write that seemed to fail may have succeeded.
                storage.write_text(self._url_of(segment), "\n".join(lines) + "\n")
                self._unwritten.popleft()


def recorded_attempts(run_url: str, ledger: str) -> list[int]:
    """List the attempts that have a folder in a ledger, ascending."""
    return [attempt for (attempt,) in LEDGER_FOLDER_NAME.list_numbers(RunPaths(run_url).ledger(ledger))]


def read_lines(run_url: str, ledger: str, attempt: int) -> dict[int, Iterator[list[Any]]]:
    """Read all lines of one attempt, whether they count or not.

    Returns:
        By rank: the lines of each segment, in the order in which they were written; a line that is not JSON is None.
        Segments are read lazily.
    """
    paths = RunPaths(run_url)
    urls: dict[int, list[str]] = {}
    for rank, segment in LEDGER_SEGMENT_NAME.list_numbers(paths.ledger_folder(ledger, attempt)):
        urls.setdefault(rank, []).append(paths.ledger_segment(ledger, attempt, rank, segment))
    return {rank: map(_read_segment, own) for rank, own in urls.items()}


def read_lineage(run_url: str, ledger: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Read the records of the steps that count, as (attempt, rank, record); each record has a `step`.

    Raises:
        CorruptDataError: A line is damaged.
    """
    for span in lineage(read_attempts(run_url)):
        for rank, segments in read_lines(run_url, ledger, span.attempt).items():
            for record in (line for segment in segments for line in segment):
                if not isinstance(record, dict) or type(record.get("step")) is not int:
                    raise CorruptDataError(
                        f"a line that worker {rank} wrote is damaged",
                        where=storage.display(RunPaths(run_url).ledger_folder(ledger, span.attempt)),
                        remedy="restore the file from a copy, or delete the line",
                    )
                if span.covers(record["step"]):
                    yield span.attempt, rank, record


def _read_segment(url: str) -> list[Any]:
    # Split as bytes: str.splitlines also splits at other characters than newlines.
    return [_parsed(line) for line in storage.read_bytes(url).split(b"\n") if line]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
