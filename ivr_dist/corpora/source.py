"""What every corpus looks like to the packer: splits of samples, loaded one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ivr_dist.corpora.readers.texts import PLACEHOLDERS
from ivr_dist.errors import DataError
from ivr_dist.shards import npy
from ivr_dist.shards.specs import FeatureSpec, TaskSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class SampleRef:
    """A sample that has not been loaded."""

    number: int
    """The source's own number of it (row, line)."""
    id: str
    """Unique in the corpus."""
    group: str | None = None
    """What must not be divided over splits, such as the video an utterance was cut from; None: nothing."""


@dataclass(frozen=True)
class SourceSample:
    """One utterance as the corpus files give it."""

    id: str
    split: str
    group: str | None
    labels: Mapping[str, float | None]
    """By task; None where the corpus has no label."""
    transcript: str
    provenance: Mapping[str, Any]
    """Where the sample comes from, in JSON values."""
    arrays: Mapping[str, Array] = field(default_factory=dict)
    """By modality: [T, D] features or [T] token ids. Absent, or T = 0: the modality is missing."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """By modality: values that were not finite and have no part in the arrays, such as in an average."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A sample of the files that is not packed."""

    id: str
    reason: str
    """Such as `no words`; the same for all that were dropped for it."""


class Source(Protocol):
    """A corpus that can be packed."""

    @property
    def corpus(self) -> str:
        """Name of the corpus; a part of the shards' file names."""

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """By modality, in the order text, audio, vision; modalities that the corpus does not have are absent."""

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """By name: what the labels mean."""

    def splits(self) -> Mapping[str, Sequence[SampleRef]]:
        """All samples by split; checked, so that no id is given twice and no group stands in two splits."""

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Load one sample of a split."""


@runtime_checkable
class TellsNotes(Protocol):
    """A source that passes over something in its files."""

    def notes(self) -> Sequence[str]:
        """What was passed over, a sentence each."""


def notes_of(source: Source) -> Sequence[str]:
    """What a source passed over; nothing for one that never does."""
    return source.notes() if isinstance(source, TellsNotes) else ()


@runtime_checkable
class DropsSamples(Protocol):
    """A source that leaves samples out."""

    def dropped(self) -> Sequence[Dropped]:
        """Every sample of the files that is in no split, in their order."""


def dropped_by(source: Source) -> Sequence[Dropped]:
    """What a source leaves out; nothing for one that never does."""
    return source.dropped() if isinstance(source, DropsSamples) else ()


@runtime_checkable
class NamesFiles(Protocol):
    """A source that reads files which the card does not list, such as those that a table names."""

    def paths(self) -> Sequence[str]:
        """Their paths, relative to the folder that is packed."""


@dataclass(frozen=True)
class Opener:
    """How another process opens the same corpus; it can be pickled."""

    open: Callable[[], Source]
    fingerprint: str
    """Of everything that the samples are made from: where it is equal, they are equal."""

    def __call__(self) -> Source:
        """Open it."""
        return self.open()


@dataclass(frozen=True)
class Prepared:
    """A sample's arrays as they go into a shard."""

    arrays: Mapping[str, Array]
    """By modality, in the feature set's stored type; a modality without steps is absent."""
    replaced: Mapping[str, int]
    """By modality: values that were not finite, or too large for the stored type, and are 0 now or were left out."""
    clean: Mapping[str, npt.NDArray[np.bool_]]
    """By modality with values that are 0 now: [T], true where nothing in the step was replaced."""
    rounded: Mapping[str, int] = field(default_factory=dict)
    """By modality, where there are any: whole numbers that the stored type cannot hold to the last digit."""


def prepare(sample: SourceSample, features: Mapping[str, FeatureSpec]) -> Prepared:
    """Check a sample's arrays against the feature sets and bring them into the stored type.

    Raises:
        DataError: An array has another shape than the feature set says, belongs to no feature set, or does not hold
            numbers.
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
        if (count := npy.rounded(values, spec.dtype)) != 0:
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
    """A copy of the stored type, in rows; what is too large for the type becomes infinite."""
    if values.dtype == dtype:
        return np.array(values, order="C")
    with np.errstate(over="ignore"):
        return np.array(values, dtype=dtype, order="C")


def as_label(value: Any) -> float:
    """A label as the decimal number that was meant: 2.4 kept as float32 is 2.4 again."""
    return float(str(value)) if isinstance(value, np.floating) else float(value)


def checked_labels(labels: Mapping[str, float | None], tasks: Mapping[str, TaskSpec], where: str) -> dict[str, Any]:
    """Labels of every task in the order of `tasks`: None where there is none, int for classes, else float.

    Raises:
        DataError: A label is outside the task's range or belongs to no task.
    """
    for name in labels:
        if name not in tasks:
            raise DataError(f"label {name!r} belongs to no task", where=where, remedy="describe the task in the card")
    checked: dict[str, Any] = {}
    for name, task in tasks.items():
        value = labels.get(name)
        # Whole numbers may be of any size: JSON has no bounds.
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


_DIVIDED = "keep all samples of a group in one split, or the test result is not one"
_NO_GROUP = "leave the group out where it is not known: this is what a missing value becomes as text"


def check_hygiene(
    splits: Mapping[str, Sequence[SampleRef]], expected: Mapping[str, int | None], where: str
) -> Mapping[str, Sequence[SampleRef]]:
    """Refuse splits that would make an evaluation worthless; returns them unchanged.

    Args:
        splits: By split.
        expected: The number of samples each must have; None: any.
        where: The corpus or its card, for errors.

    Raises:
        DataError: An id is empty or given twice, a group stands in two splits, or a count differs.
    """
    split_of_id: dict[str, str] = {}
    split_of_group: dict[str, str] = {}
    for split, refs in splits.items():
        for ref in refs:
            if not ref.id.strip():
                raise DataError(f"a sample of split {split} has no id (number {ref.number} of its file)", where=where)
            if ref.id in split_of_id:
                places = " and ".join(sorted({split_of_id[ref.id], split}))
                raise DataError(f"sample id {ref.id} is given twice (split {places})", where=where)
            split_of_id[ref.id] = split
            if ref.group is not None and split_of_group.setdefault(ref.group, split) != split:
                raise DataError(
                    f"group {ref.group} is in the splits {split_of_group[ref.group]} and {split}",
                    where=where,
                    remedy=_NO_GROUP if ref.group in PLACEHOLDERS else _DIVIDED,
                )
    for split, count in expected.items():
        found = len(splits.get(split, ()))
        if count is not None and found != count:
            raise DataError(
                f"split {split} has {found} samples, the card expects {count}",
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
