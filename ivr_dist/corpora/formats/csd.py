"""Format `csd`: files of the CMU Multimodal SDK, with words as time steps.

A labeled segment has the words whose midpoint is in its interval, without pauses; it is dropped if there are none.
Other features are averaged over the rows that overlap a word by more than a millisecond, without weights, over finite
values only; if there are none, the value is NaN, which packing counts and replaces by 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ivr_dist.corpora.card import Card
from ivr_dist.corpora.card_mappings import CsdMapping, CsdVocabulary
from ivr_dist.corpora.card_source import CardSource
from ivr_dist.corpora.files import split_of_group
from ivr_dist.corpora.formats.arrays import ArrayFiles, texts_of
from ivr_dist.corpora.readers.csd_file import CsdFile
from ivr_dist.corpora.source import Array, Dropped, SampleRef, SourceSample, as_label, check_hygiene, checked_labels
from ivr_dist.errors import DataError
from ivr_dist.shards.npy import NUMBERS

_LEAST_OVERLAP_S = 1e-3
"""Adjacent intervals overlap by rounding errors, in particular where a file has times as float32."""
_ONE_ROW_LATE = "words_one_row_late"


@dataclass(frozen=True)
class _Segment:
    """A labeled segment of a video, with its words."""

    video: str
    row: int
    """Row in the labels of the video."""
    start: float
    end: float
    words: list[str]
    times: npt.NDArray[np.float64]
    """[T, 2] start and end of each word."""


class CsdSource(CardSource):
    """A corpus of computational sequences.

    Words and times are read when the corpus is opened, features together with their sample.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: A card of format `csd`.

    Raises:
        DataError: A file is not a computational sequence, a video is in no split, or a split has another number of
            samples than the card expects.
    """

    def __init__(self, root: str, card: Card) -> None:
        if card.csd is None:
            raise ValueError(f"card {card.name} is not of format csd")
        self._card = card
        self._mapping: CsdMapping = card.csd
        self._words = CsdFile(root, card.files[self._mapping.words])
        self._labels = CsdFile(root, card.files[self._mapping.labels.file])
        self._columns = _columns(self._labels, self._mapping)
        self._averaged = {name: CsdFile(root, card.files[file]) for name, file in self._mapping.averaged().items()}
        dims = {name: _width(file) for name, file in self._averaged.items()}
        if self._mapping.vocabulary is not None:
            self._rows, self._vectors = _read_vocabulary(ArrayFiles(root, card), self._mapping.vocabulary)
            dims["text"] = self._vectors.shape[1]
        self._features = card.feature_specs(dims)
        self._segments: list[_Segment] = []
        self._dropped: list[Dropped] = []
        refs = self._read_splits(split_of_group(root, card) or {})
        self._splits = check_hygiene(refs, card.expected_counts(), f"corpus {card.name}", card.split_by)

    def dropped(self) -> Sequence[Dropped]:
        """List segments without words, and videos that are in no split or have no labels."""
        return self._dropped

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Assemble one segment, with features averaged over words.

        Raises:
            DataError: A label is out of range, or a file is damaged.
        """
        segment = self._segments[ref.number]
        row = self._labels.rows(segment.video, segment.row, segment.row + 1)[0]
        labels = {task: as_label(row[column]) for task, column in self._columns.items()}
        arrays: dict[str, Array] = {}
        left_out: dict[str, int] = {}
        if self._mapping.vocabulary is not None:
            unknown = self._mapping.vocabulary.unknown
            arrays["text"] = self._vectors[[self._rows.get(word, unknown) for word in segment.words]]
        for name, file in self._averaged.items():
            if segment.video in file:
                arrays[name], count = _average(file, segment)
                left_out |= {name: count} if count else {}
        return SourceSample(
            id=ref.id,
            split=split,
            group=ref.group,
            labels=checked_labels(labels, self._card.tasks, f"{self._labels.where}, sample {ref.id}"),
            transcript=" ".join(segment.words),
            provenance={
                "file": self._card.files[self._mapping.labels.file].path,
                "group": segment.video,
                "row": segment.row,
                "start": segment.start,
                "end": segment.end,
            },
            arrays=arrays,
            left_out=left_out,
        )

    def _read_splits(self, split_of: Mapping[str, str]) -> dict[str, list[SampleRef]]:
        splits: dict[str, list[SampleRef]] = {name: [] for name in self._card.splits}
        for video in self._labels.videos:
            intervals = self._labels.intervals(video)
            if video not in split_of:
                self._drop_unlisted(video, len(intervals))
                continue
            words, times = self._timed_words(video)
            middle = times.mean(axis=1)
            for row, (start, end) in enumerate(intervals.tolist()):
                id_ = self._id(video, row)
                inside = np.flatnonzero((middle >= start) & (middle < end))
                if not len(inside):
                    reason = "no words in its interval" if len(words) else "its video has no words"
                    self._dropped.append(Dropped(id_, reason))
                    continue
                splits[split_of[video]].append(SampleRef(len(self._segments), id_, video))
                spoken = [words[index] for index in inside]
                self._segments.append(_Segment(video, row, start, end, spoken, times[inside]))
        unknown = [video for video in split_of if video not in self._labels]
        self._dropped += [Dropped(video, "a split lists this video, but it has no labels") for video in unknown]
        return splits

    def _drop_unlisted(self, video: str, segments: int) -> None:
        if self._mapping.unlisted == "refuse":
            raise DataError(
                f"video {video} is in no split",
                where=self._labels.where,
                remedy="list it in the card, or set csd.unlisted to drop",
            )
        self._dropped += [Dropped(self._id(video, row), "its video is in no split") for row in range(segments)]

    def _id(self, video: str, row: int) -> str:
        return f"{video}_{row + self._mapping.first}"

    def _timed_words(self, video: str) -> tuple[list[str], npt.NDArray[np.float64]]:
        """Return the words of a video without pauses, and their times [n, 2]."""
        if video not in self._words:
            return [], np.zeros((0, 2))
        words, times = self._words.words(video), self._words.intervals(video)
        if _ONE_ROW_LATE in self._mapping.fixes and len(words):
            # The time of the first word is lost; that of the second is the closest available.
            times = np.concatenate([times[:1], times[:-1]])
        spoken = [index for index, word in enumerate(words) if word not in self._mapping.pauses]
        return [words[index] for index in spoken], times[spoken]


def _average(file: CsdFile, segment: _Segment) -> tuple[Array, int]:
    """Average the file's rows over each word, [T, D], and count the values left out because they are not finite.

    T is 0 if no row overlaps any word.
    """
    words, times = segment.times, file.intervals(segment.video)
    near = np.flatnonzero((times[:, 1] > words[:, 0].min()) & (times[:, 0] < words[:, 1].max()))
    first, end = (int(near[0]), int(near[-1]) + 1) if len(near) else (0, 0)
    times = times[first:end]
    overlap = np.minimum(words[:, 1:], times[:, 1]) - np.maximum(words[:, :1], times[:, 0])
    use = overlap > _LEAST_OVERLAP_S
    if not use.any():
        return np.zeros((0, file.dim or 0)), 0
    rows = file.rows(segment.video, first, end).astype(np.float64)
    means = np.full((len(words), rows.shape[1]), np.nan)
    left_out = 0
    for word, overlapping in enumerate(use):
        values = rows[overlapping]
        finite = np.isfinite(values)
        count = finite.sum(axis=0)
        filled = count > 0
        means[word, filled] = np.where(finite, values, 0).sum(axis=0)[filled] / count[filled]
        left_out += int((~finite)[:, filled].sum())
    return means, left_out


def _columns(labels: CsdFile, mapping: CsdMapping) -> dict[str, int]:
    """Find the number of each task's column."""
    described, stated = labels.column_names(), mapping.labels.columns
    if described is not None and stated is not None and described != stated:
        what = f"the file has the columns {', '.join(described)}, the card {', '.join(stated)}"
        raise DataError(what, where=labels.where, remedy="correct csd.labels in the card")
    names = stated or described
    if names is None or len(names) != labels.dim:
        what = "does not name its columns" if names is None else f"has {labels.dim} columns, not {len(names)}"
        remedy = "list them in csd.labels.columns"
        raise DataError(f"the file of labels {what}", where=labels.where, remedy=remedy)
    for task, name in mapping.labels.tasks.items():
        if name not in names:
            remedy = f"it has: {', '.join(names)}"
            raise DataError(f"no column {name}, the label {task}", where=labels.where, remedy=remedy)
    return {task: names.index(name) for task, name in mapping.labels.tasks.items()}


def _width(file: CsdFile) -> int:
    if file.dim is None:
        raise DataError("its rows are not numbers", where=file.where, remedy="correct the files of the card")
    return file.dim


def _read_vocabulary(files: ArrayFiles, vocabulary: CsdVocabulary) -> tuple[dict[str, int], Array]:
    """Read the row of each word, and the table [words, D]."""
    words, vectors = files.read(vocabulary.file, vocabulary.words), files.read(vocabulary.file, vocabulary.vectors)
    if (
        vectors.ndim != 2
        or vectors.dtype.kind not in NUMBERS
        or words.ndim != 1
        or len(words) != len(vectors)
        or not 0 <= vocabulary.unknown < len(vectors)
    ):
        what = f"{len(words)} words, vectors {list(vectors.shape)} and row {vocabulary.unknown} do not match"
        raise DataError(what, where=files.display(vocabulary.file))
    return {word: row for row, word in enumerate(texts_of(words, files.display(vocabulary.file)))}, vectors
