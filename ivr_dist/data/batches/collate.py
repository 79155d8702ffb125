"""Collate samples into tensors: one padded micro-batch with masks, labels and flat indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.data.batches.batch import Batch, ModalityBatch, in_blocks, padded_batch
from ivr_dist.data.batches.tokenization import PieceEncoder, Tokenizer, word_batch, words_before
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.planning.pool_layout import WORDS
from ivr_dist.shards.decode import spaced_words
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_columns import Column, Samples
from ivr_dist.shards.specs import TaskSpec

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchSpec:
    """Contents of every batch of a run, for all splits."""

    modalities: Mapping[str, tuple[str, int]]
    """By modality, in the order of MODALITIES: kind and width: D of `features`, size of the vocabulary of `tokens`,
    width of the pretrained encoder of `words`."""
    tasks: Mapping[str, TaskSpec]
    statistics: Mapping[str, tuple[Float32Array, Float32Array]]
    """By standardized modality: mean [D] and standard deviation [D] over the valid steps of the training split."""
    common_length: bool = False
    """Whether every modality of every sample is as long as the longest of the global batch, and padding counts as valid
    steps, as in the training of the released model. No modality is ever missing then."""
    tokenizer: Tokenizer | None = field(default=None, compare=False)
    """Splits words into the pieces of the pretrained encoder, where text is of kind `words`."""

    @classmethod
    def from_manifest(
        cls,
        train: Manifest,
        modalities: Collection[str],
        standardize: Collection[str],
        *,
        common_length: bool = False,
        text: PieceEncoder | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> BatchSpec:
        """Take the layout and the statistics from the training split.

        Args:
            train: Manifest of the training split.
            modalities: Modalities to use, where the data set has them.
            standardize: Modalities to standardize, where they are used; tokens and words are not changed.
            common_length: See the field.
            text: The pretrained encoder that reads the transcript instead of the packed text, if there is one.
            note: Called with warnings of its tokenizer.

        Raises:
            DataError: The data set has none of the modalities, the manifest lacks the statistics of one, or there is no
                transcript.
        """
        reads = text if "text" in modalities else None
        used = {m: _layout(train, m) for m in train.features if m in modalities and not (reads and m == "text")}
        if reads is not None:
            train.check_transcripts()
            used["text"] = (WORDS, reads.width)
        used = {m: used[m] for m in MODALITIES if m in used}
        if not used:
            raise DataError(
                f"the data set has {', '.join(train.features)}, the run uses {', '.join(modalities)}",
                where="data.modalities",
                remedy="name at least one modality that the data set has",
            )
        statistics = {}
        for name in [m for m, (kind, _) in used.items() if m in standardize and kind == "features"]:
            if name not in train.statistics:
                raise DataError(
                    f"the training split has no statistics of {name}",
                    where="data.standardize",
                    remedy=f"leave {name} out of it, or pack the training split",
                )
            stored = train.statistics[name]
            statistics[name] = (np.array(stored.mean, np.float32), np.array(stored.std, np.float32))
        return cls(
            modalities=used,
            tasks=train.tasks,
            statistics=statistics,
            common_length=common_length,
            tokenizer=None if reads is None else reads.tokenizer(note),
        )

    def check_split(self, split: Manifest) -> None:
        """Check that a split has the modalities and tasks of the training split.

        Raises:
            DataError: It lacks a modality or task, or has one of another width or type.
        """
        actual = {name: (spec.kind, spec.dim) for name, spec in split.features.items()}
        # Every split has its own vocabulary; the model uses that of the training split.
        expected = {m: (kind, 1 if kind == "tokens" else width) for m, (kind, width) in self.modalities.items()}
        remedy = "pack all splits from one source with one card"
        if expected.get("text", ("",))[0] == WORDS:
            del expected["text"]
            split.check_transcripts()
        for name, layout in expected.items():
            if actual.get(name) != layout:
                own = f"{name} {actual[name][0]} of width {actual[name][1]}" if name in actual else f"no {name}"
                raise DataError(
                    f"the split has {own} where training has {name} {layout[0]} of width {layout[1]}",
                    where=f"{split.corpus}, split {split.split}",
                    remedy=remedy,
                )
        for name, task in self.tasks.items():
            if split.tasks.get(name) != task:
                raise DataError(
                    f"the split lacks the task {name} of training, or has another one of that name",
                    where=f"{split.corpus}, split {split.split}",
                    remedy=remedy,
                )


def _layout(train: Manifest, name: str) -> tuple[str, int]:
    spec = train.features[name]
    if spec.kind == "features":
        return spec.kind, spec.dim
    if name not in train.vocabulary:
        raise DataError(
            f"the training split has no vocabulary size of the token ids of {name}",
            where=f"{train.corpus}, split {train.split}",
            remedy="pack all splits again with this version",
        )
    return spec.kind, train.vocabulary[name]


def collate(
    samples: Samples, slots: Int64Array, positions: Int64Array, spec: BatchSpec, steps: int | None = None
) -> Batch:
    """Build the batch of a range of slots.

    Args:
        samples: B samples, 0 or more.
        slots: [B] slot of each in the global batch, ascending.
        positions: [B] number of each in its data set.
        spec: Contents of the batch; modalities and labels that it does not name are left out.
        steps: Length of every modality, all of which counts as valid; None: as long as the longest sample, of which
            only its own steps are valid.

    Raises:
        CorruptDataError: A label is not valid for its task.
    """
    labels, label_mask = {}, {}
    for name, task in spec.tasks.items():
        labels[name], label_mask[name] = _labels(samples, name, task)
    return Batch(
        keys=tuple(samples.ids),
        slots=torch.from_numpy(np.asarray(slots, np.int64)),
        modalities=in_blocks(_modalities(samples, spec, steps)),
        labels=labels,
        label_mask=label_mask,
        positions=torch.from_numpy(np.asarray(positions, np.int64)),
    )


def _modalities(samples: Samples, spec: BatchSpec, common: int | None) -> dict[str, ModalityBatch]:
    parts: dict[str, ModalityBatch] = {}
    by_lengths: dict[bytes, ModalityBatch] = {}
    for name, (kind, _) in spec.modalities.items():
        if kind == WORDS:
            assert spec.tokenizer is not None
            before = words_before(samples, range(len(samples)), spec.tokenizer.context)
            parts[name] = word_batch(list(map(spaced_words, samples.transcripts)), spec.tokenizer, before)
            continue
        own = np.maximum(np.array(samples.columns[name].steps, np.int64), 0)
        steps = int(own.max(initial=0)) if common is None else common
        features = pad_steps(samples.columns[name], own, steps, spec.modalities[name], spec.statistics.get(name))
        # The flat indices follow from the lengths only, so aligned modalities share them.
        counted = own if common is None else np.full_like(own, common)
        aligned = by_lengths.get(counted.tobytes())
        if aligned is None:
            batch = padded_batch(features, np.arange(steps) < counted[:, None])
        else:
            batch = replace(aligned, features=features)
        parts[name] = by_lengths[counted.tobytes()] = batch
    return parts


def pad_steps(
    column: Column,
    lengths: Int64Array,
    steps: int,
    layout: tuple[str, int],
    scaling: tuple[Float32Array, Float32Array] | None,
) -> Tensor:
    """Pad arrays of [B] lengths to [B, T, D] or [B, T], and standardize them; the padding is 0 afterwards as well.

    Args:
        column: The arrays.
        lengths: Their steps, at least 0 each.
        steps: T.
        layout: Kind and width, see `BatchSpec.modalities`.
        scaling: Mean and standard deviation, [D], or [B, 1, D] where they differ between samples; None: as stored.
    """
    kind, dim = layout
    dtype = np.int64 if kind == "tokens" else np.float32
    padded: npt.NDArray[Any] = _joined(column, lengths, steps).astype(dtype, copy=False)
    if kind == "tokens":
        # The model regards all ids that the training split lacks as the same one, the first unknown id.
        np.minimum(padded, dim, out=padded)
    if scaling is not None:
        mean, deviation = scaling
        padded -= mean
        padded /= deviation
        padded[np.arange(steps) >= lengths[:, None]] = 0
    return torch.from_numpy(padded)


def _joined(column: Column, lengths: Int64Array, steps: int) -> npt.NDArray[Any]:
    """Join arrays of [B] lengths as rows of [B, T, ...], padded with zeros."""
    parts = column.values
    if len(lengths) and lengths.min() < steps:
        missing = ((steps - lengths) * column.kind.step_bytes).tolist()
        zeros = memoryview(bytes(max(missing)))
        parts = [part for own, size in zip(parts, missing, strict=True) for part in (own, zeros[:size])]
    # A bytearray, because the array must be writable. It joins in half the time that numpy takes to concatenate.
    return np.ndarray(column.kind.shape(len(lengths), steps), column.kind.dtype, bytearray().join(parts))


def _labels(samples: Samples, name: str, task: TaskSpec) -> tuple[Tensor, Tensor]:
    """Return values and mask of one task's labels, both [B]."""
    values, mask = checked_labels(samples, range(len(samples)), name, task)
    dtype = np.float32 if task.type == "regression" else np.int64
    return torch.from_numpy(values.astype(dtype)), torch.from_numpy(mask)


def checked_labels(
    samples: Samples, rows: Sequence[int], name: str, task: TaskSpec
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return values and mask of one task's labels of some rows, both [n]; the value is 0 where there is no label.

    Raises:
        CorruptDataError: A label is not valid for the task.
    """
    stored = [samples.labels[row].get(name) for row in rows]
    mask = np.array([value is not None for value in stored], bool)
    values = np.array([0.0 if value is None else value for value in stored], np.float64)
    if task.type == "regression":
        low, high = -math.inf if task.low is None else task.low, math.inf if task.high is None else task.high
        wrong = mask & ~((low <= values) & (values <= high))
        why, what = f"outside {low:g}..{high:g}", "range"
    else:
        classes = task.classes or 0
        wrong = ~((values == np.floor(values)) & (values >= 0) & (values < classes))
        why, what = f"not a class 0..{classes - 1}", "classes"
    if wrong.any():
        first = int(wrong.argmax())
        raise CorruptDataError(
            f"label {name} is {values[first]:g}, {why}",
            where=samples.where(rows[first]),
            remedy=f"correct the label, or the task's {what}, and pack the split again",
        )
    return values, mask
