"""Attempts: each start of a worker group on a run, and which of their steps count.

A run is trained by one attempt after another: the first one, one more after each fault, one more for each time the user
starts the command again. Attempt numbers are taken by a conditional create in storage, so no two groups share one. An
attempt records the step it forked at; later steps of its parent do not count (decision 004).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ivr_dist import storage
from ivr_dist.common.decoder import decode
from ivr_dist.errors import CorruptDataError, SupersededError
from ivr_dist.run.paths import ATTEMPT_NAME, RunPaths
from ivr_dist.sanitize import shorten


@dataclass(frozen=True)
class Attempt:
    """One start of a worker group."""

    number: int
    """1, 2, ... in the order of the starts."""
    parent: int | None
    """The attempt whose checkpoint it continues; None when it started from scratch or from another run."""
    step: int
    """Completed steps it started from."""
    world: int
    """Workers."""
    stage: int
    """ZeRO stage."""
    steps_per_epoch: int
    """Optimizer steps of one pass over the training split."""
    started: float = 0.0
    """Unix time in seconds."""
    workers: tuple[str, ...] = ()
    """`host:pid` of each worker, by rank."""
    changed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By config key that has another value than in the checkpoint: the value there, and here."""


@dataclass(frozen=True)
class Span:
    """The steps `first..last` (both included) of one attempt; `last` is None while the attempt is the newest."""

    attempt: int
    first: int
    last: int | None

    def covers(self, step: int) -> bool:
        """Whether this attempt's work on `step` counts."""
        return self.first <= step and (self.last is None or step <= self.last)


def lineage(attempts: Sequence[Attempt]) -> list[Span]:
    """Return the steps that count, oldest first: from the newest attempt back through its parents."""
    by_number = {attempt.number: attempt for attempt in attempts}
    spans: list[Span] = []
    number: int | None = max(by_number, default=None)
    last: int | None = None
    while number is not None:
        attempt = by_number[number]
        spans.append(Span(number, attempt.step + 1, last))
        last = attempt.step
        number = attempt.parent
    return spans[::-1]


def allocate(
    run_url: str,
    *,
    parent: int | None,
    step: int,
    stage: int,
    steps_per_epoch: int,
    workers: Sequence[str],
    changed: Mapping[str, Sequence[str]] | None = None,
) -> Attempt:
    """Create the record of the next attempt; safe against another worker group that does the same."""
    number = max(numbers(run_url), default=0) + 1
    while True:
        world, now = len(workers), time.time()
        attempt = Attempt(number, parent, step, world, stage, steps_per_epoch, now, tuple(workers), dict(changed or {}))
        if storage.create_exclusive(RunPaths(run_url).attempt(number), json.dumps(asdict(attempt)).encode()):
            return attempt
        number += 1


def read_attempts(run_url: str) -> list[Attempt]:
    """Read all attempts of a run by ascending number; empty for a run that never started.

    Raises:
        CorruptDataError: A record is damaged, or one that another continues is missing.
    """
    records: dict[int, Attempt] = {}
    paths = RunPaths(run_url)
    for number in numbers(run_url):
        url = paths.attempt(number)
        try:
            records[number] = attempt = _parse(storage.read_json(url), number)
        except (CorruptDataError, ValueError) as error:
            raise _damaged(url, error.what if isinstance(error, CorruptDataError) else str(error)) from error
        # A parent is older, so that lineages end.
        if attempt.parent is not None and attempt.parent not in records:
            raise _damaged(
                RunPaths(run_url).attempt(attempt.parent), f"it is missing, and attempt {number} continues it"
            )
    return list(records.values())


def _parse(record: Any, number: int) -> Attempt:
    """Parse the record of an attempt.

    Raises:
        ValueError: It is invalid; the text says why.
    """
    if isinstance(record, dict):
        # Unknown keys are those of later versions.
        record = {item.name: record[item.name] for item in fields(Attempt) if item.name in record}
    attempt = decode(Attempt, record)
    least = {"number": number, "step": 0, "world": 1, "stage": 0, "steps_per_epoch": 1}
    for name, low in least.items():
        value = getattr(attempt, name)
        if value < low or (name == "number" and value != number):
            raise ValueError(f"its {name} is {shorten(str(value), 20)}")
    if attempt.parent is not None and not 0 < attempt.parent < number:
        raise ValueError(f"its parent is {shorten(str(attempt.parent), 20)}")
    for key, values in attempt.changed.items():
        if len(values) != 2:
            raise ValueError(f"its changed has {len(values)} values of {shorten(key, 40)} instead of two")
    return attempt


def _damaged(url: str, why: str) -> CorruptDataError:
    return CorruptDataError(
        f"an attempt record cannot be read: {why}",
        where=storage.display(url),
        remedy="restore the file from a copy, or choose another run.dir",
    )


def numbers(run_url: str) -> list[int]:
    """List the numbers of all attempts of a run, ascending."""
    return [number for (number,) in ATTEMPT_NAME.list_numbers(RunPaths(run_url).attempts)]


def exists(run_url: str, number: int) -> bool:
    """Whether this process sees an attempt's record; if not, the run directory is not shared with its writer."""
    return storage.exists(RunPaths(run_url).attempt(number))


def check_newest(run_url: str, number: int) -> None:
    """Check that no newer attempt has begun; called before changes that could break it.

    Raises:
        SupersededError: A newer attempt has begun.
    """
    newest = max(numbers(run_url), default=0)
    if newest > number:
        raise SupersededError(
            f"attempt {number} of this run was superseded by attempt {newest}",
            where=run_url,
            remedy="look at that one with `ivr-dist status`",
        )
