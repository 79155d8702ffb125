"""The lines of an audit ledger, compared step by step with what was trained and with what each step holds."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.sample_order import EMPTY, EpochOrder, Int64Array
from ivr_dist.inspection.audit_report import SHOWN, AuditReport, EpochAudit
from ivr_dist.inspection.recorded_ids import NamedSamples
from ivr_dist.run.attempts import Span
from ivr_dist.run.ledger import read_lines
from ivr_dist.run.paths import AUDIT
from ivr_dist.shards.manifest import Manifest


class Order:
    """Which samples each step of a run holds; quick where steps are asked for one after the other.

    Args:
        manifest: Of the training split.
        start: The order, as the cursor of a checkpoint has it.
        steps_per_epoch: Of the run.
    """

    def __init__(self, manifest: Manifest, start: DataCursor, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self._samples = manifest.samples
        self._shard_samples = manifest.shard_samples
        self._start = start
        self._newest: tuple[int, EpochOrder] | None = None

    def steps(self, epoch: int) -> range:
        """The steps of an epoch."""
        return range(epoch * self.steps_per_epoch + 1, (epoch + 1) * self.steps_per_epoch + 1)

    def epoch(self, step: int) -> int:
        """The epoch of a step."""
        return (step - 1) // self.steps_per_epoch

    def size(self, step: int) -> int:
        """How many samples a step holds; only the last one of an epoch may have less than the global batch."""
        batch = self._start.global_batch
        return min(batch, self._samples - (step - 1) % self.steps_per_epoch * batch)

    def numbers(self, step: int) -> Int64Array:
        """The samples that a step holds, in any order."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        if self._newest is None or self._newest[0] != epoch:
            at = self._start
            order = EpochOrder(self._shard_samples, at.manifest_id, at.seed, epoch, at.lanes, at.global_batch, at.delay)
            self._newest = epoch, order
        slots = self._newest[1].batch(place)
        found: Int64Array = slots[slots != EMPTY]
        return found


@dataclass(frozen=True)
class _Line:
    """What one worker recorded of one step."""

    rank: int
    step: int
    epoch: int
    ids: list[str]
    skipped: list[str]

    @classmethod
    def parse(cls, rank: int, value: Any) -> _Line | None:
        """A line of JSON; None if it is something else."""
        if not isinstance(value, dict):
            return None
        step, epoch, ids, skipped = value.get("step"), value.get("epoch"), value.get("ids"), value.get("skipped", [])
        if type(step) is not int or type(epoch) is not int:
            return None
        if not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names) for names in (ids, skipped)
        ):
            return None
        return cls(rank, step, epoch, ids or [], skipped)


class Book:
    """Takes the ledgers of all attempts that count, one after the other.

    Args:
        report: Is filled in; its `reach` says how far lines must reach.
        order: Which samples each step holds.
        samples: The training split.
        first: The first step of the run.
        most: The last step that it can have trained.
    """

    def __init__(self, report: AuditReport, order: Order, samples: NamedSamples, first: int, most: int) -> None:
        self._report = report
        self._order = order
        self._samples = samples
        self._counting = range(first, report.reach + 1)
        self._most = most
        self._epochs: dict[int, EpochAudit] = {}
        self._sound: set[int] = set()
        self._open: dict[int, tuple[int, list[_Line]]] = {}
        """By step that is not sound so far: how many workers trained it, and its lines; more may stand further on."""

    def add_attempt(self, run_url: str, span: Span, world: int) -> None:
        """Read what one attempt has recorded; what it trained beyond its span was trained again, and does not count."""
        ranks = read_lines(run_url, AUDIT, span.attempt)
        lines = heapq.merge(
            *(self._plausible(span, world, rank, segments) for rank, segments in ranks.items()), key=_step
        )
        for step, found in groupby(lines, key=_step):
            self._add(step, world, list(found))

    def close(self) -> None:
        """Judge what is not sound, and what is not there at all, now that everything is read."""
        for step, (world, lines) in self._open.items():
            self._account(step, world, lines)
        for step in self._counting:
            if step not in self._sound and step not in self._open:
                self._report.lost_steps.append(step)
                self._miss(step, self._order.numbers(step).tolist())
        for number, epoch in self._epochs.items():
            for step in self._order.steps(number):
                if step > self._report.reach and step not in self._sound and step not in self._open:
                    epoch.to_come += self._order.size(step)
        self._report.epochs = [self._epochs[number] for number in sorted(self._epochs)]
        self._report.lost_steps.sort()
        self._report.repeated_steps = sorted(set(self._report.repeated_steps))

    def _plausible(self, span: Span, world: int, rank: int, segments: Iterator[list[Any]]) -> Iterator[_Line]:
        """The lines of a worker that it can have written and that count, in order of steps within a segment."""
        for segment in segments:
            found = []
            for value in segment:
                line = _Line.parse(rank, value)
                wrong = "a line is damaged" if line is None else self._forgery(span, world, line)
                if wrong:
                    self._report.forged.append(f"attempt {span.attempt}, worker {rank}: {wrong}")
                elif line is not None and span.covers(line.step):
                    found.append(line)
            yield from sorted(found, key=_step)

    def _forgery(self, span: Span, world: int, line: _Line) -> str:
        """Why nobody can have written a line; empty if somebody can."""
        if line.rank >= world:
            return f"there were {world} workers, from 0 on"
        if line.step < span.first:
            return f"step {line.step}, but it began at step {span.first}"
        if span.last is None and line.step > self._most:
            return f"step {line.step}, but the run ends at step {self._most}"
        if line.epoch != self._order.epoch(line.step):
            return f"step {line.step} is of epoch {self._order.epoch(line.step)}, not {line.epoch}"
        return ""

    def _add(self, step: int, world: int, lines: list[_Line]) -> None:
        if step in self._sound:
            self._account_again(step, lines)
            return
        lines = [*self._open.pop(step, (world, []))[1], *lines]
        ids, skipped = _names(lines)
        if sorted(line.rank for line in lines) == list(range(world)):
            named = self._samples.match(self._order.numbers(step), ids, skipped)
            if not named.missing and not named.strays:
                epoch = self._epoch(step)
                epoch.steps += 1
                epoch.seen += len(ids)
                epoch.skipped += skipped
                self._sound.add(step)
                return
        self._open[step] = world, lines

    def _account(self, step: int, world: int, lines: Sequence[_Line]) -> None:
        """Tell what is wrong with a step that is not sound; beyond the last one that counts, lines may be absent."""
        epoch = self._epoch(step)
        ids, skipped = _names(lines)
        named = self._samples.match(self._order.numbers(step), ids, skipped)
        ranks = Counter(line.rank for line in lines)
        epoch.seen += len(ids)
        epoch.skipped += skipped
        epoch.twice += named.again
        epoch.elsewhere += named.elsewhere
        epoch.unknown += named.unknown
        if max(ranks.values()) > 1:
            self._report.repeated_steps.append(step)
        whole = len(ranks) == world
        if step in self._counting and not whole:
            self._report.lost_steps.append(step)
        if step in self._counting or whole:
            self._miss(step, named.missing)
        else:
            epoch.to_come += len(named.missing)

    def _account_again(self, step: int, lines: Sequence[_Line]) -> None:
        """Lines of a step that is sound without them."""
        epoch = self._epoch(step)
        ids, skipped = _names(lines)
        named = self._samples.match(self._order.numbers(step), ids, skipped)
        others = {*named.elsewhere, *named.unknown}
        epoch.seen += len(ids)
        epoch.twice += [name for name in (*ids, *skipped) if name not in others]
        epoch.elsewhere += named.elsewhere
        epoch.unknown += named.unknown
        self._report.repeated_steps.append(step)

    def _miss(self, step: int, numbers: Sequence[int]) -> None:
        epoch = self._epoch(step)
        epoch.missing += len(numbers)
        epoch.examples += map(self._samples.name, numbers[: SHOWN - len(epoch.examples)])

    def _epoch(self, step: int) -> EpochAudit:
        number = self._order.epoch(step)
        if number not in self._epochs:
            steps = self._order.steps(number)
            complete = steps[0] in self._counting and steps[-1] in self._counting
            self._epochs[number] = EpochAudit(number, complete)
        return self._epochs[number]


def _step(line: _Line) -> int:
    return line.step


def _names(lines: Sequence[_Line]) -> tuple[list[str], list[str]]:
    """Ids trained on, and names of what was left out."""
    return [name for line in lines for name in line.ids], [name for line in lines for name in line.skipped]
