"""Labels of a table of segments for utterances of the same videos, matched by start and end.

Tables of one corpus by different authors number its utterances differently, or round their times, so that times are
the only common key. A match needs the same labels where both tables have them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ivr_dist.corpora.card import SourceFile
from ivr_dist.corpora.card_mappings import NearestSegments
from ivr_dist.corpora.readers.utterance_rows import UtteranceRow, read_rows
from ivr_dist.errors import DataError

_EXACT_S = 0.02
"""Differences of times that are only rounding; such a match is taken whatever its labels."""
_SAME = 1e-3
"""Difference of labels that is only rounding."""


@dataclass(frozen=True)
class _Segment:
    start: float
    end: float
    row: UtteranceRow

    def distance(self, start: float, end: float) -> float:
        return max(abs(self.start - start), abs(self.end - end))


class SegmentTable:
    """A table of labeled segments.

    Args:
        root: Folder or URL that the card's paths are relative to.
        file: The entry of the table in the card.
        mapping: Its columns.

    Raises:
        DataError: The table cannot be read, or a time or label is not a number.
    """

    def __init__(self, root: str, file: SourceFile, mapping: NearestSegments) -> None:
        self._mapping = mapping
        columns = [mapping.video, mapping.start, mapping.end, *mapping.labels.values(), *mapping.same.values()]
        self._by_video: dict[str, list[_Segment]] = {}
        for row in read_rows(root, file, columns):
            segment = _Segment(number(row, mapping.start), number(row, mapping.end), row)
            self._by_video.setdefault(row.text(mapping.video), []).append(segment)

    def labels(self, video: str, start: float, end: float, known: Mapping[str, float | None]) -> dict[str, float]:
        """Find the labels of an utterance by task; empty if no segment matches.

        Args:
            video: Its video.
            start: Its start in seconds.
            end: Its end in seconds.
            known: Its labels in its own table by task.
        """
        segments = self._by_video.get(video, ())
        exact = [segment for segment in segments if segment.distance(start, end) <= _EXACT_S]
        near = [segment for segment in segments if self._has_labels(segment.row, known)]
        near = [segment for segment in near if segment.distance(start, end) <= self._mapping.within]
        candidates = exact or near
        if not candidates:
            return {}
        best = min(candidates, key=lambda segment: segment.distance(start, end))
        return {task: number(best.row, column) for task, column in self._mapping.labels.items()}

    def _has_labels(self, row: UtteranceRow, known: Mapping[str, float | None]) -> bool:
        pairs = ((known.get(task), number(row, column)) for task, column in self._mapping.same.items())
        return all(one is not None and abs(one - other) <= _SAME for one, other in pairs)


def number(row: UtteranceRow, column: str) -> float:
    """Return a value as a finite number.

    Raises:
        DataError: It is not one.
    """
    try:
        value = float(row.text(column))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{column} is {row.text(column)!r}, not a number", where=row.where)
    return value
