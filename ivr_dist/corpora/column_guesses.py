"""Guesses about the columns of a table: id, group, split, transcript, labels and their tasks.

Pure functions of the columns' names and values. A guess is by the usual names first, then by the values.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations, pairwise

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.corpora.formats.table_mapping import NO_LABEL, TRUTH
from ivr_dist.shards.specs import TaskSpec

Columns = Mapping[str, Sequence[str]]
"""Values of all rows by column."""

SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "val", "dev", "validation", "development"),
    "test": ("test", "testing", "tst"),
}
"""What tables call the splits, in any case."""
_IDS = ("id", "clip_id", "sample_id", "utterance_id", "segment_id", "key", "uid", "clip", "segment", "name", "filename")
_GROUPS = ("group", "video", "video_id", "vid", "dialogue_id", "dialog_id", "dialogue", "scene_id", "scene", "film")
_SPLITS = ("split", "fold", "set", "subset", "partition", "mode")
_TRANSCRIPTS = ("transcript", "transcription", "text", "utterance", "sentence", "raw_text", "words", "caption")
_LABELS: tuple[str, ...] = (
    "label",
    "labels",
    "sentiment",
    "emotion",
    "score",
    "polarity",
    "sarcasm",
    "humor",
    "humour",
    "funny",
)
_LABELS += ("valence", "arousal", "mood", "rating", "target", "annotation")
_PART_OF_ID = re.compile(r"(^|[^a-z])(id|[a-z]?id|video|clip|utt|utterance|segment|scene|dialogue|season|episode)s?$")
_LONGEST_ID = 120
_MOST_PARTS = 8
_FEWEST_WORDS = 3
_MOST_CLASSES = 100
_MOST_NUMBERED_CLASSES = 20


def guess_id(columns: Columns) -> str | None:
    """Guess the column that is different in every row, or a template of up to four such as `{video}_{clip}`."""
    usable = [name for name, values in columns.items() if all(0 < len(value) <= _LONGEST_ID for value in values)]
    ordered = _by_names(usable, _IDS)
    for name in ordered:
        if _is_unique([columns[name]]):
            return name
    # Neither braces, which mark columns in a template, nor values of several words, which are no ids.
    names_of_parts = (name for name in usable if _PART_OF_ID.search(_folded(name)) and not re.search(r"[{}:]", name))
    parts = [name for name in names_of_parts if not any(len(value.split()) > 1 for value in columns[name])]
    for size in (2, 3, 4):
        for names in combinations(parts[:_MOST_PARTS], size):
            if _is_unique([columns[name] for name in names]):
                return "_".join(f"{{{name}}}" for name in names)
    return next((name for name in usable if _is_unique([columns[name]])), None)


def guess_group(columns: Columns, split: str | None, taken: Collection[str | None]) -> str | None:
    """Guess the column of the group: one with repeated values, none of which is in two splits."""
    for name in _by_names(columns, _GROUPS):
        values = columns[name]
        if name in taken or not all(values) or not len(set(values)) < len(values):
            continue
        if split is None or not crossing(values, columns[split]):
            return name
    return None


def crossing(groups: Sequence[str], splits: Sequence[str]) -> list[str]:
    """List the groups that are in two splits."""
    seen: dict[str, set[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        seen.setdefault(group, set()).add(split)
    return [group for group, names in seen.items() if group and len(names) > 1]


def guess_split(columns: Columns) -> str | None:
    """Guess the column of the split: one whose values are names of splits."""
    return next((name for name in _by_names(columns, _SPLITS) if splits_of(columns[name]) is not None), None)


def splits_of(values: Iterable[str]) -> dict[str, str] | None:
    """Return what the values call each split, in the order train, valid, test; None if one is no name of a split."""
    called = {
        name: value
        for name, names in SPLIT_NAMES.items()
        for value in dict.fromkeys(values)
        if value.strip().lower() in names
    }
    return called if called and set(called.values()) == set(values) else None


def guess_transcript(columns: Columns, taken: Collection[str | None]) -> str | None:
    """Guess the column of the transcript: one of a usual name, or the one with most words."""
    free = {name: values for name, values in columns.items() if name not in taken}
    for name in _by_names(free, _TRANSCRIPTS):
        if any(not _is_number(value) for value in free[name]):
            return name
    words = {name: sum(len(value.split()) for value in values) / len(values) for name, values in free.items()}
    best = max(words, key=words.__getitem__, default=None)
    return best if best is not None and words[best] >= _FEWEST_WORDS else None


def guess_labels(columns: Columns, taken: Collection[str | None]) -> list[str]:
    """Guess the columns of labels, by their names; each can be made a task."""
    names = []
    for name in columns:
        parts = re.split(r"[^a-z]+", _folded(name))
        if name not in taken and any(part in _LABELS for part in parts):
            try:
                guess_task(columns[name])
            except ValueError:
                continue
            names.append(name)
    return names


def guess_paths(columns: Columns) -> dict[str, str]:
    """Find the columns called text, audio or vision that hold paths of .npy files; returns templates by modality."""
    return {
        name: f"{{{name}}}"
        for name in MODALITIES
        if name in columns and any(columns[name]) and all(v.endswith(".npy") for v in columns[name] if v)
    }


def guess_task(values: Iterable[str]) -> TaskSpec:
    """Guess the task of a column of labels.

    Whole numbers 0, 1, 2, ... without a gap, and texts, are classes; other numbers are a regression between the
    smallest and the largest.

    Raises:
        ValueError: It has no label, only one, or as many different texts as no classification has.
    """
    labels = {value.strip() for value in values} - NO_LABEL
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} different values are no labels to learn")
    if {label.lower() for label in labels} <= TRUTH.keys():
        return TaskSpec(type="classification", classes=2, names=("false", "true"))
    if not all(map(_is_number, labels)):
        by_folded = {label.casefold(): label for label in sorted(labels)}
        names = tuple(by_folded[folded] for folded in sorted(by_folded))
        if len(names) > _MOST_CLASSES:
            raise ValueError(f"{len(names)} different texts are too many classes")
        return TaskSpec(type="classification", classes=len(names), names=names)
    numbers = sorted(map(float, labels))
    is_counted = numbers[0] == 0 and all(after - before in (0, 1) for before, after in pairwise(numbers))
    if is_counted and 1 <= numbers[-1] < _MOST_NUMBERED_CLASSES:
        return TaskSpec(type="classification", classes=int(numbers[-1]) + 1)
    return TaskSpec(type="regression", low=numbers[0], high=numbers[-1])


def task_name(column: str) -> str:
    """Make a name of letters, digits and underscores of a column; `labels.sentiment` becomes `sentiment`."""
    stem = column.rpartition(".")[2] if column.lower().startswith(("label.", "labels.")) else column
    return re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_").lower() or "label"


def _by_names(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """Sort the columns that have one of the names, in the order of the names."""
    folded = {column: re.sub(r"[^a-z0-9]+", "_", _folded(column)).strip("_") for column in columns}
    return sorted((c for c in folded if folded[c] in names), key=lambda column: names.index(folded[column]))


def _folded(column: str) -> str:
    """Write a name in lower case, with an underscore at the humps of `clipId`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()


def _is_unique(columns: Sequence[Sequence[str]]) -> bool:
    rows = list(zip(*columns, strict=True))
    return len(set(rows)) == len(rows)


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False
