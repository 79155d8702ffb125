"""Comparison of an audit ledger, step by step, with the attempts of the run and the samples of each step."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ivr_dist.inspection.audit_report import SHOWN, AuditReport, EpochAudit
from ivr_dist.inspection.recorded_ids import Match, SampleNames
from ivr_dist.inspection.step_samples import Part, PartNumbers, StepSamples
from ivr_dist.run.attempts import Span
from ivr_dist.run.ledger import read_lines
from ivr_dist.run.paths import AUDIT

Names = dict[Part, list[str]]
"""Names of samples by part."""


@dataclass(frozen=True)
class _Line:
    """Ledger line of one worker and one step."""

    rank: int
    step: int
    epoch: int
    ids: Names
    skipped: Names
    excluded: Names

    @classmethod
    def parse(cls, rank: int, value: Any) -> _Line | None:
        """Parse the JSON value of a line; None if it is invalid."""
        if not isinstance(value, dict):
            return None
        step, epoch = value.get("step"), value.get("epoch")
        if type(step) is not int or type(epoch) is not int:
            return None
        names = [_names(value.get(key, default), epoch) for key, default in _FIELDS.items()]
        if any(own is None for own in names):
            return None
        ids, skipped, excluded = (own or {} for own in names)
        return cls(rank, step, epoch, ids, skipped, excluded)


_FIELDS: dict[str, Any] = {"ids": None, "skipped": [], "excluded": []}
"""Fields of a line, with what they are where the line does not have them."""


def _names(value: Any, epoch: int) -> Names | None:
    """Read names by part: a list of one corpus, or objects by corpus and pass; None if they are invalid."""
    if _are_texts(value):
        return {Part("", epoch): value} if value else {}
    if not isinstance(value, dict):
        return None
    names: Names = {}
    for corpus, passes in value.items():
        if not isinstance(passes, dict):
            return None
        for number, own in passes.items():
            if not number.isdecimal() or not _are_texts(own):
                return None
            names[Part(corpus, int(number))] = own
    return names


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


class LedgerAudit:
    """Compares the ledgers of all attempts of the lineage, one after the other.

    Args:
        report: Receives the result; its `reach` is the last step that must be recorded.
        order: The samples of each step.
        samples: By corpus, as in the parts and in the order of the config: the ids of the training split.
        first: First step of the run.
        last_possible: Last step that it can have trained.
    """

    def __init__(
        self,
        report: AuditReport,
        order: StepSamples,
        samples: Mapping[str, SampleNames],
        first: int,
        last_possible: int,
    ) -> None:
        self._report = report
        self._order = order
        self._samples = samples
        self._counted_steps = range(first, report.reach + 1)
        self._last_possible = last_possible
        self._parts: dict[Part, EpochAudit] = {}
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
                for part, numbers in self._order.parts(step).items():
                    self._report_missing(part, numbers.trained.tolist())
        for part, audit in self._parts.items():
            if not audit.complete:
                recorded = audit.seen + len(audit.skipped) + audit.missing
                audit.to_come = max(0, self._order.size(part) - recorded)
        corpora = list(self._samples)
        self._report.epochs = [
            self._parts[part]
            for part in sorted(self._parts, key=lambda part: (corpora.index(part.corpus), part.number))
        ]
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
        parts = self._order.parts(line.step)
        strange = [part for names in (line.ids, line.skipped, line.excluded) for part in names if part not in parts]
        if strange:
            return f"step {line.step} has no samples of pass {strange[0].number} of {strange[0].corpus or 'the corpus'}"
        return ""

    def _add(self, step: int, world: int, lines: list[_Line]) -> None:
        if step in self._correct:
            self._report_extra_lines(step, lines)
            return
        lines = [*self._pending.pop(step, (world, []))[1], *lines]
        parts = self._order.parts(step)
        if sorted(line.rank for line in lines) == list(range(world)) and all(
            self._is_correct(part, numbers, lines) for part, numbers in parts.items()
        ):
            for part, numbers in parts.items():
                ids, skipped, _ = _recorded(lines, part)
                audit = self._audit(part)
                audit.steps += 1
                audit.left_out += len(numbers.left_out)
                audit.seen += len(ids)
                audit.skipped += skipped
            self._correct.add(step)
            return
        self._pending[step] = world, lines

    def _is_correct(self, part: Part, numbers: PartNumbers, lines: Sequence[_Line]) -> bool:
        ids, skipped, excluded = _recorded(lines, part)
        match = self._samples[part.corpus].match(numbers.trained, ids, skipped)
        return not match.missing and not match.strays and not self._match_left_out(part, numbers, excluded).strays

    def _report_step(self, step: int, world: int, lines: Sequence[_Line]) -> None:
        """Report an incorrect step; beyond the last counted step, lines may be missing."""
        ranks = Counter(line.rank for line in lines)
        if max(ranks.values()) > 1:
            self._report.repeated_steps.append(step)
        is_complete = len(ranks) == world
        if step in self._counted_steps and not is_complete:
            self._report.lost_steps.append(step)
        for part, numbers in self._order.parts(step).items():
            audit = self._audit(part)
            ids, skipped, excluded = _recorded(lines, part)
            match = self._samples[part.corpus].match(numbers.trained, ids, skipped)
            audit.seen += len(ids)
            audit.skipped += skipped
            trained = self._left_out_among(part, numbers, match.elsewhere)
            audit.trained_though_left_out += trained
            match.elsewhere = [name for name in match.elsewhere if name not in trained]
            for each in (match, self._match_left_out(part, numbers, excluded)):
                audit.twice += each.again
                audit.elsewhere += each.elsewhere
                audit.unknown += each.unknown
            audit.left_out += len(numbers.left_out)
            if step in self._counted_steps or is_complete:
                self._report_missing(part, match.missing)

    def _report_extra_lines(self, step: int, lines: Sequence[_Line]) -> None:
        """Report further lines of a step that is correct without them."""
        for part, numbers in self._order.parts(step).items():
            audit = self._audit(part)
            ids, skipped, _ = _recorded(lines, part)
            match = self._samples[part.corpus].match(numbers.trained, ids, skipped)
            strays = {*match.elsewhere, *match.unknown}
            audit.seen += len(ids)
            audit.twice += [name for name in (*ids, *skipped) if name not in strays]
            audit.elsewhere += match.elsewhere
            audit.unknown += match.unknown
        self._report.repeated_steps.append(step)

    def _match_left_out(self, part: Part, numbers: PartNumbers, names: Sequence[str]) -> Match:
        """Match the names that are recorded as left out; a step that was not trained at all records none."""
        return self._samples[part.corpus].match(numbers.left_out, (), names) if names else Match([])

    def _left_out_among(self, part: Part, numbers: PartNumbers, names: Sequence[str]) -> list[str]:
        """Return those of some names that are samples of the step which the run leaves out."""
        if not names:
            return []
        match = self._samples[part.corpus].match(numbers.left_out, names)
        strays = {*match.again, *match.elsewhere, *match.unknown}
        return [name for name in names if name not in strays]

    def _report_missing(self, part: Part, numbers: Sequence[int]) -> None:
        audit = self._audit(part)
        audit.missing += len(numbers)
        audit.examples += map(self._samples[part.corpus].name, numbers[: SHOWN - len(audit.examples)])

    def _audit(self, part: Part) -> EpochAudit:
        if part not in self._parts:
            complete = self._order.is_complete(part, self._counted_steps)
            self._parts[part] = EpochAudit(part.number, complete, corpus=part.corpus)
        return self._parts[part]


def _step(line: _Line) -> int:
    return line.step


def _recorded(lines: Sequence[_Line], part: Part) -> tuple[list[str], list[str], list[str]]:
    """Return the ids of a part that were trained on, and the names of its skipped and its left-out samples."""
    return (
        [name for line in lines for name in line.ids.get(part, ())],
        [name for line in lines for name in line.skipped.get(part, ())],
        [name for line in lines for name in line.excluded.get(part, ())],
    )
