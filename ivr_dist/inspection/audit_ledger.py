"""Comparison of an audit ledger, step by step, with the attempts of the run and the samples of each step."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.exclusions import NOTHING, Exclusions
from ivr_dist.data.sample_order import EMPTY, EpochOrder, Int64Array
from ivr_dist.inspection.audit_report import SHOWN, AuditReport, EpochAudit
from ivr_dist.inspection.recorded_ids import Match, SampleNames
from ivr_dist.run.attempts import Span
from ivr_dist.run.ledger import read_lines
from ivr_dist.run.paths import AUDIT
from ivr_dist.shards.manifest import Manifest


class StepSamples:
    """The samples of each step of a run; the order of the current epoch is cached.

    Args:
        manifest: Manifest of the training split.
        start: Data cursor of the run's first step.
        steps_per_epoch: Steps per epoch of the run.
        excluded: Samples that the run leaves out.
    """

    def __init__(
        self, manifest: Manifest, start: DataCursor, steps_per_epoch: int, excluded: Exclusions = NOTHING
    ) -> None:
        self._excluded = excluded
        self.steps_per_epoch = steps_per_epoch
        self._samples = manifest.samples
        self._shard_samples = manifest.shard_samples
        self._start = start
        self._newest: tuple[int, EpochOrder] | None = None

    def steps(self, epoch: int) -> range:
        """Return the steps of an epoch."""
        return range(epoch * self.steps_per_epoch + 1, (epoch + 1) * self.steps_per_epoch + 1)

    def epoch(self, step: int) -> int:
        """Return the epoch of a step."""
        return (step - 1) // self.steps_per_epoch

    def size(self, step: int) -> int:
        """Return the number of samples that are trained in a step: at most the global batch."""
        if self._excluded:
            return len(self.numbers(step))
        batch = self._start.global_batch
        return min(batch, self._samples - (step - 1) % self.steps_per_epoch * batch)

    def numbers(self, step: int) -> Int64Array:
        """Return the positions of the samples that are trained in a step, [n], in any order."""
        numbers = self._all(step)
        return numbers[~self._excluded.mask(numbers)]

    def left_out(self, step: int) -> Int64Array:
        """Return the positions of the samples of a step that the run leaves out, [n], in any order."""
        numbers = self._all(step)
        return numbers[self._excluded.mask(numbers)]

    def _all(self, step: int) -> Int64Array:
        epoch, batch = divmod(step - 1, self.steps_per_epoch)
        if self._newest is None or self._newest[0] != epoch:
            cursor = self._start
            order = EpochOrder(
                self._shard_samples,
                cursor.manifest_id,
                cursor.seed,
                epoch,
                cursor.lanes,
                cursor.global_batch,
                cursor.delay,
            )
            self._newest = epoch, order
        slots = self._newest[1].batch(batch)
        numbers: Int64Array = slots[slots != EMPTY]
        return numbers


@dataclass(frozen=True)
class _Line:
    """Ledger line of one worker and one step."""

    rank: int
    step: int
    epoch: int
    ids: list[str]
    skipped: list[str]
    excluded: list[str]

    @classmethod
    def parse(cls, rank: int, value: Any) -> _Line | None:
        """Parse the JSON value of a line; None if it is invalid."""
        if not isinstance(value, dict):
            return None
        step, epoch = value.get("step"), value.get("epoch")
        ids, skipped, excluded = value.get("ids"), value.get("skipped", []), value.get("excluded", [])
        if type(step) is not int or type(epoch) is not int:
            return None
        if not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in (ids, skipped, excluded)
        ):
            return None
        return cls(rank, step, epoch, ids or [], skipped, excluded)


class LedgerAudit:
    """Compares the ledgers of all attempts of the lineage, one after the other.

    Args:
        report: Receives the result; its `reach` is the last step that must be recorded.
        order: The samples of each step.
        samples: The ids of the training split.
        first: First step of the run.
        last_possible: Last step that it can have trained.
    """

    def __init__(
        self, report: AuditReport, order: StepSamples, samples: SampleNames, first: int, last_possible: int
    ) -> None:
        self._report = report
        self._order = order
        self._samples = samples
        self._counted_steps = range(first, report.reach + 1)
        self._last_possible = last_possible
        self._epochs: dict[int, EpochAudit] = {}
        self._correct: set[int] = set()
        self._pending: dict[int, tuple[int, list[_Line]]] = {}
        """Number of workers and lines of each step that is not complete and correct so far: more lines may follow."""

    def add_attempt(self, run_url: str, span: Span, world: int) -> None:
        """Compare the lines of one attempt; steps beyond its span were trained again later and do not count."""
        ranks = read_lines(run_url, AUDIT, span.attempt)
        lines = heapq.merge(
            *(self._plausible(span, world, rank, segments) for rank, segments in ranks.items()), key=_step
        )
        for step, lines_of_step in groupby(lines, key=_step):
            self._add(step, world, list(lines_of_step))

    def close(self) -> None:
        """Report incorrect and missing steps, once all attempts have been added."""
        for step, (world, lines) in self._pending.items():
            self._report_step(step, world, lines)
        for step in self._counted_steps:
            if step not in self._correct and step not in self._pending:
                self._report.lost_steps.append(step)
                self._report_missing(step, self._order.numbers(step).tolist())
        for number, epoch in self._epochs.items():
            for step in self._order.steps(number):
                if step > self._report.reach and step not in self._correct and step not in self._pending:
                    epoch.to_come += self._order.size(step)
        self._report.epochs = [self._epochs[number] for number in sorted(self._epochs)]
        self._report.lost_steps.sort()
        self._report.repeated_steps = sorted(set(self._report.repeated_steps))

    def _plausible(self, span: Span, world: int, rank: int, segments: Iterator[list[Any]]) -> Iterator[_Line]:
        """Yield the counted lines that a worker can have written, sorted by step within each segment."""
        for segment in segments:
            lines = []
            for value in segment:
                line = _Line.parse(rank, value)
                reason = "a line is damaged" if line is None else self._why_forged(span, world, line)
                if reason:
                    self._report.forged.append(f"attempt {span.attempt}, worker {rank}: {reason}")
                elif line is not None and span.covers(line.step):
                    lines.append(line)
            yield from sorted(lines, key=_step)

    def _why_forged(self, span: Span, world: int, line: _Line) -> str:
        """Explain why no worker can have written a line; empty if one can."""
        if line.rank >= world:
            return f"the attempt had only {world} workers, numbered from 0"
        if line.step < span.first:
            return f"step {line.step}, but the attempt began at step {span.first}"
        if span.last is None and line.step > self._last_possible:
            return f"step {line.step}, but the run ends at step {self._last_possible}"
        if line.epoch != self._order.epoch(line.step):
            return f"step {line.step} is of epoch {self._order.epoch(line.step)}, not {line.epoch}"
        return ""

    def _add(self, step: int, world: int, lines: list[_Line]) -> None:
        if step in self._correct:
            self._report_extra_lines(step, lines)
            return
        lines = [*self._pending.pop(step, (world, []))[1], *lines]
        ids, skipped = _recorded_names(lines)
        if sorted(line.rank for line in lines) == list(range(world)):
            match = self._samples.match(self._order.numbers(step), ids, skipped)
            if not match.missing and not match.strays and not self._match_left_out(step, lines).strays:
                epoch = self._epoch(step)
                epoch.steps += 1
                epoch.left_out += len(self._order.left_out(step))
                epoch.seen += len(ids)
                epoch.skipped += skipped
                self._correct.add(step)
                return
        self._pending[step] = world, lines

    def _report_step(self, step: int, world: int, lines: Sequence[_Line]) -> None:
        """Report an incorrect step; beyond the last counted step, lines may be missing."""
        epoch = self._epoch(step)
        ids, skipped = _recorded_names(lines)
        match = self._samples.match(self._order.numbers(step), ids, skipped)
        ranks = Counter(line.rank for line in lines)
        epoch.seen += len(ids)
        epoch.skipped += skipped
        trained = self._left_out_among(step, match.elsewhere)
        epoch.trained_though_left_out += trained
        match.elsewhere = [name for name in match.elsewhere if name not in trained]
        for each in (match, self._match_left_out(step, lines)):
            epoch.twice += each.again
            epoch.elsewhere += each.elsewhere
            epoch.unknown += each.unknown
        epoch.left_out += len(self._order.left_out(step))
        if max(ranks.values()) > 1:
            self._report.repeated_steps.append(step)
        is_complete = len(ranks) == world
        if step in self._counted_steps and not is_complete:
            self._report.lost_steps.append(step)
        if step in self._counted_steps or is_complete:
            self._report_missing(step, match.missing)
        else:
            epoch.to_come += len(match.missing)

    def _report_extra_lines(self, step: int, lines: Sequence[_Line]) -> None:
        """Report further lines of a step that is correct without them."""
        epoch = self._epoch(step)
        ids, skipped = _recorded_names(lines)
        match = self._samples.match(self._order.numbers(step), ids, skipped)
        strays = {*match.elsewhere, *match.unknown}
        epoch.seen += len(ids)
        epoch.twice += [name for name in (*ids, *skipped) if name not in strays]
        epoch.elsewhere += match.elsewhere
        epoch.unknown += match.unknown
        self._report.repeated_steps.append(step)

    def _match_left_out(self, step: int, lines: Sequence[_Line]) -> Match:
        """Match the names that are recorded as left out; a step that was not trained at all records none."""
        names = [name for line in lines for name in line.excluded]
        return self._samples.match(self._order.left_out(step), (), names) if names else Match([])

    def _left_out_among(self, step: int, names: Sequence[str]) -> list[str]:
        """Return those of some names that are samples of the step which the run leaves out."""
        if not names:
            return []
        match = self._samples.match(self._order.left_out(step), names)
        strays = {*match.again, *match.elsewhere, *match.unknown}
        return [name for name in names if name not in strays]

    def _report_missing(self, step: int, numbers: Sequence[int]) -> None:
        epoch = self._epoch(step)
        epoch.missing += len(numbers)
        epoch.examples += map(self._samples.name, numbers[: SHOWN - len(epoch.examples)])

    def _epoch(self, step: int) -> EpochAudit:
        number = self._order.epoch(step)
        if number not in self._epochs:
            steps = self._order.steps(number)
            complete = steps[0] in self._counted_steps and steps[-1] in self._counted_steps
            self._epochs[number] = EpochAudit(number, complete)
        return self._epochs[number]


def _step(line: _Line) -> int:
    return line.step


def _recorded_names(lines: Sequence[_Line]) -> tuple[list[str], list[str]]:
    """Return the ids that were trained on, and the names of skipped samples."""
    return [name for line in lines for name in line.ids], [name for line in lines for name in line.skipped]
