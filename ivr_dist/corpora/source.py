"""The source protocol: splits of samples, loaded one at a time by the packer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ivr_dist.corpora.readers.texts import PLACEHOLDERS
from ivr_dist.errors import DataError
from ivr_dist.shards import npy
from ivr_dist.shards.decode import ContextUtterance
from ivr_dist.shards.specs import FeatureSpec, SplitBy, TaskSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class SampleRef:
    """A sample that has not been loaded."""

    number: int
    """Number of the sample in the source (row, line)."""
    id: str
    """Unique id in the corpus."""
    group: str | None = None
    """Group that splits must not share (leakage), such as the video of an utterance; None: unknown."""


@dataclass(frozen=True)
class SourceSample:
    """One utterance of the source files."""

    id: str
    split: str
    group: str | None
    labels: Mapping[str, float | None]
    """Labels by task; None where the corpus has no label."""
    transcript: str
    provenance: Mapping[str, Any]
    """Origin of the sample, in JSON values."""
    arrays: Mapping[str, Array] = field(default_factory=dict)
    """By modality: [T, D] features or [T] token ids. Absent, or T = 0: the modality is missing."""
    context: Sequence[ContextUtterance] = ()
    """The utterances before it in its dialogue, oldest first."""
    turn: int | None = None
    """Number of the utterance in its group (dialogue); None: unknown."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """By modality: values that were not finite and were left out of the arrays, for example of an average."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A sample of the files that is not packed."""

    id: str
    reason: str
    """Reason such as `no words`, with the same text for all samples dropped for it."""


class Source(Protocol):
    """A corpus that can be packed."""

    @property
    def corpus(self) -> str:
        """Name of the corpus, which is part of the shards' file names."""

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """Features by modality, in the order text, audio, vision, without modalities that the corpus lacks."""

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """Tasks by name, which define the labels."""

    def splits(self) -> Mapping[str, Sequence[SampleRef]]:
        """List all samples by split; ids are unique, and no group is in two splits (see `check_hygiene`)."""

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Load one sample of a split."""


@runtime_checkable
class HasNotes(Protocol):
    """A source that skips parts of its files."""

    def notes(self) -> Sequence[str]:
        """List what was skipped, a sentence each."""


def notes_of(source: Source) -> Sequence[str]:
    """List what a source skipped; empty if it is not a `HasNotes`."""
    return source.notes() if isinstance(source, HasNotes) else ()


@runtime_checkable
class DropsSamples(Protocol):
    """A source that drops samples."""

    def dropped(self) -> Sequence[Dropped]:
        """List every sample of the files that is in no split, in their order."""


def dropped_by(source: Source) -> Sequence[Dropped]:
    """List the samples that a source drops; empty if it is not a `DropsSamples`."""
    return source.dropped() if isinstance(source, DropsSamples) else ()


def divided_groups(splits: Mapping[str, Sequence[SampleRef]]) -> tuple[int, int]:
    """Count the groups that are in several splits, and all groups."""
    splits_of: dict[str, set[str]] = {}
    for name, refs in splits.items():
        for ref in refs:
            if ref.group is not None:
                splits_of.setdefault(ref.group, set()).add(name)
    return sum(len(names) > 1 for names in splits_of.values()), len(splits_of)


@runtime_checkable
class StatesSplit(Protocol):
    """A source that states what its splits keep together."""

    @property
    def split_by(self) -> SplitBy:
        """`clip` if groups may be in several splits."""


def split_by_of(source: Source) -> SplitBy:
    """Return what the splits of a source keep together; groups if it is not a `StatesSplit`."""
    return source.split_by if isinstance(source, StatesSplit) else "group"


@runtime_checkable
class NamesFiles(Protocol):
    """A source that reads files which the card does not list, such as those that a table names."""

    def paths(self) -> Sequence[str]:
        """Their paths, relative to the folder that is packed."""


@runtime_checkable
class GivesTranscripts(Protocol):
    """A source that knows transcripts without reading the arrays of samples."""

    def transcript(self, split: str, ref: SampleRef) -> str:
        """Return the transcript of one sample."""


@runtime_checkable
class HasWords(Protocol):
    """A source of token ids that stand for words."""

    def words(self) -> Mapping[str, Sequence[str]]:
        """List by modality the words in the order of their ids."""


def words_of_source(source: Source) -> Mapping[str, Sequence[str]]:
    """List the words of a source's token ids; empty if it is not a `HasWords`."""
    return source.words() if isinstance(source, HasWords) else {}


@dataclass(frozen=True)
class Opener:
    """Opens the same corpus in another process; can be pickled."""

    open: Callable[[], Source]
    fingerprint: str
    """Hash of everything that determines the samples: equal fingerprints mean equal samples."""

    def __call__(self) -> Source:
        """Open the corpus."""
        return self.open()


@dataclass(frozen=True)
class Prepared:
    """Arrays of a sample as a shard stores them."""

    arrays: Mapping[str, Array]
    """By modality, in the feature set's stored type; a modality without steps is absent."""
    replaced: Mapping[str, int]
    """By modality: values that were not finite or too large for the stored type, replaced by 0 or left out."""
    clean: Mapping[str, npt.NDArray[np.bool_]]
    """By modality with values replaced by 0: [T], true where nothing in the time step was replaced."""
    rounded: Mapping[str, int] = field(default_factory=dict)
    """By modality, where there are any: whole numbers that the stored type cannot hold to the last digit."""


def prepare(sample: SourceSample, features: Mapping[str, FeatureSpec]) -> Prepared:
    """Check a sample's arrays against the feature sets, and convert them to the stored type.

    Raises:
        DataError: The shape of an array contradicts its feature set, it has no feature set, or is not numeric.
    """
    for modality in sample.arrays:
        if modality not in features:
            raise DataError(f"sample {sample.id} has {modality}, for which no feature set is described")
    arrays: dict[str, Array] = {}
    replaced = dict(sample.left_out)
    rounded: dict[str, int] = {}
    clean: dict[str, npt.NDArray[np.bool_]] = {}
    for modality, spec in features.items():
        values = sample.arrays.get(modality)
        if values is None or len(values) == 0:
            continue
        where = f"sample {sample.id}, {modality}"
        if spec.kind == "tokens":
            arrays[modality] = _tokens(values, where)
            continue
        if values.ndim != 2 or values.shape[1] != spec.dim:
            raise DataError(f"array of shape {list(values.shape)} instead of [steps, {spec.dim}]", where=where)
        if values.dtype.kind not in "fiub":
            raise DataError(f"an array of {values.dtype} instead of numbers", where=where)
        if (count := npy.count_rounded(values, spec.dtype)) != 0:
            rounded[modality] = count
        stored = _stored(values, spec.dtype)
        finite = np.isfinite(stored)
        if not finite.all():
            clean[modality] = np.logical_and.reduce(finite, axis=1)
            replaced[modality] = replaced.get(modality, 0) + int(finite.size - np.count_nonzero(finite))
            stored[~finite] = 0
        arrays[modality] = stored
    return Prepared(arrays=arrays, replaced=replaced, clean=clean, rounded=rounded)


def _stored(values: Array, dtype: str) -> Array:
    """Copy to the stored type, in C order; values too large for the type become infinite."""
    if values.dtype == dtype:
        return np.array(values, order="C")
    with np.errstate(over="ignore"):
        return np.array(values, dtype=dtype, order="C")


def as_label(value: Any) -> float:
    """Convert a label to its decimal value: 2.4 stored as float32 is 2.4 again."""
    return float(str(value)) if isinstance(value, np.floating) else float(value)


def checked_labels(labels: Mapping[str, float | None], tasks: Mapping[str, TaskSpec], where: str) -> dict[str, Any]:
    """Check labels, and list those of every task in the order of `tasks`: None, int for classes, or float.

    Raises:
        DataError: A label is outside the task's range or belongs to no task.
    """
    for name in labels:
        if name not in tasks:
            raise DataError(f"label {name!r} belongs to no task", where=where, remedy="describe the task in the card")
    checked: dict[str, Any] = {}
    for name, task in tasks.items():
        value = labels.get(name)
        # Whole numbers may have any size, which JSON does not limit.
        if value is None or value != value:
            checked[name] = None
        elif task.type == "classification":
            if value not in range(task.classes or 0):
                what = f"label {name} is {_shown(value)}, not a class 0..{(task.classes or 0) - 1}"
                raise DataError(what, where=where)
            checked[name] = int(value)
        else:
            low, high = task.low, task.high
            if (low is not None and value < low) or (high is not None and value > high):
                raise DataError(f"label {name} is {_shown(value)}, outside {low:g}..{high:g}", where=where)
            checked[name] = float(value)
    return checked


def _shown(value: float) -> str:
    try:
        return f"{value:g}"
    except OverflowError:
        return "a whole number of hundreds of digits"


_LEAKAGE = "keep all samples of a group in one split; otherwise leakage makes test results too good"
_NO_GROUP = "leave the group out where it is unknown: this is a missing value that became text"


def check_hygiene(
    splits: Mapping[str, Sequence[SampleRef]],
    expected: Mapping[str, int | None],
    where: str,
    split_by: SplitBy = "group",
) -> Mapping[str, Sequence[SampleRef]]:
    """Refuse splits with leakage, such as a group in two splits; returns valid splits unchanged.

    Args:
        splits: Samples by split.
        expected: The number of samples that each split must have; None: any.
        where: The corpus or its card, for errors.
        split_by: Whether groups may be in two splits (`clip`).

    Raises:
        DataError: An id is empty or given twice, a group is in two splits, or a number of samples differs.
    """
    split_of_id: dict[str, str] = {}
    split_of_group: dict[str, str] = {}
    for split, refs in splits.items():
        for ref in refs:
            if not ref.id.strip():
                raise DataError(f"a sample of split {split} has no id (number {ref.number} of its file)", where=where)
            if ref.id in split_of_id:
                both = " and ".join(sorted({split_of_id[ref.id], split}))
                raise DataError(f"sample id {ref.id} is given twice (split {both})", where=where)
            split_of_id[ref.id] = split
            if split_by == "group" and ref.group is not None and split_of_group.setdefault(ref.group, split) != split:
                raise DataError(
                    f"group {ref.group} is in the splits {split_of_group[ref.group]} and {split}",
                    where=where,
                    remedy=_NO_GROUP if ref.group in PLACEHOLDERS else _LEAKAGE,
                )
    for split, count in expected.items():
        samples = len(splits.get(split, ()))
        if count is not None and samples != count:
            raise DataError(
                f"split {split} has {samples} samples, the card expects {count}",
                where=where,
                remedy="use the files that the card describes, or correct the card",
            )
    return splits


def _tokens(values: Array, where: str) -> Array:
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(
            f"token ids of type {values.dtype} and shape {list(values.shape)} instead of integers [steps]", where=where
        )
    limits = np.iinfo(np.int32)
    if values.min() < 0 or values.max() > limits.max:
        raise DataError("a token id does not fit 32 bits without sign", where=where)
    return values.astype(np.int32)
