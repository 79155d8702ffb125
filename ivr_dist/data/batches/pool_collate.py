"""Collate samples of several corpora into one micro-batch: feature sets by modality, labels by head.

All corpora that have a feature set are joined at once, so that the time for a batch hardly depends on their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ivr_dist.data.batches.batch import Batch, ModalityBatch, SetSteps, in_blocks, padded_batch
from ivr_dist.data.batches.collate import checked_labels
from ivr_dist.data.batches.pool_spec import PoolSpec, Scaling
from ivr_dist.data.batches.tokenization import word_batch, words_before
from ivr_dist.planning.label_scale import to_head
from ivr_dist.planning.pool_layout import WORDS
from ivr_dist.shards.decode import spaced_words
from ivr_dist.shards.sample_columns import Samples

Int64Array = npt.NDArray[np.int64]
_Scalings = Mapping[int, Scaling]


@dataclass(frozen=True)
class PooledRows:
    """The samples of a micro-batch, B of them in slot order, as rows of samples that were read by corpus."""

    parts: Mapping[int, Samples]
    """By number of the corpus: samples that were read of it."""
    corpus: Int64Array
    """[B] number of the corpus of each sample."""
    rows: Int64Array
    """[B] row of each in the samples of its corpus."""

    def of(self, number: int) -> tuple[Int64Array, list[int]]:
        """Return the places in the batch of the samples of a corpus, ascending, and their rows in its samples."""
        places = np.flatnonzero(self.corpus == number)
        return places, self.rows[places].tolist()


@dataclass(frozen=True)
class _SetPart:
    """One feature set of a modality: M of the batch's samples, N_s valid steps."""

    steps: SetSteps
    places: Int64Array
    """[M] place of each of its samples in the batch, ascending."""
    mask: npt.NDArray[np.bool_]
    """[M, T] valid steps."""


def collate_pool(samples: PooledRows, slots: Int64Array, positions: Int64Array, spec: PoolSpec) -> Batch:
    """Build the batch of a range of slots.

    Args:
        samples: B samples, 0 or more.
        slots: [B] slot of each in the global batch, ascending.
        positions: [B] number of each in its corpus.
        spec: Contents of the batch.

    Raises:
        CorruptDataError: A label is not valid for its task.
    """
    ids, labels, masks, weights = _labels(samples, spec)
    modalities = {
        modality: _modality([_set_part(samples, spec, modality, name) for name in sets], list(sets), len(slots))
        for modality, sets in spec.layout.sets.items()
    }
    return Batch(
        keys=tuple(ids),
        slots=torch.from_numpy(np.asarray(slots, np.int64)),
        modalities=in_blocks(modalities),
        labels=labels,
        label_mask=masks,
        positions=torch.from_numpy(np.asarray(positions, np.int64)),
        corpus=torch.from_numpy(samples.corpus),
        label_weight=weights,
    )


def _set_part(samples: PooledRows, spec: PoolSpec, modality: str, name: str) -> _SetPart:
    """Join one feature set of all corpora that have it."""
    kind, width = spec.layout.sets[modality][name]
    has_set = np.array([corpus.sets.get(modality) == name for corpus in spec.layout.corpora], bool)
    places = np.flatnonzero(has_set[samples.corpus])
    own = list(zip(samples.corpus[places].tolist(), samples.rows[places].tolist(), strict=True))
    if kind == WORDS:
        assert spec.tokenizer is not None
        texts = [spaced_words(samples.parts[number].transcripts[row]) for number, row in own]
        before = [
            words for number, row in own for words in words_before(samples.parts[number], [row], spec.tokenizer.context)
        ]
        part = word_batch(texts, spec.tokenizer, before)
        counts = part.features.flatten().index_select(0, part.flat)
        return _SetPart(SetSteps(counts, part.pieces), places, part.mask.numpy())
    columns = {number: samples.parts[number].columns[modality] for number in {number for number, _ in own}}
    lengths = np.maximum(np.array([columns[number].steps[row] for number, row in own], np.int64), 0)
    dtype = np.int64 if kind == "tokens" else np.float32
    shape = (-1,) if kind == "tokens" else (-1, width)
    stored = {column.kind.dtype for column in columns.values()}
    if len(stored) == 1:
        values = bytearray().join([columns[number].values[row] for number, row in own])
        flat: npt.NDArray[Any] = np.frombuffer(values, stored.pop()).reshape(shape).astype(dtype, copy=False)
    else:
        arrays = [np.frombuffer(columns[number].values[row], columns[number].kind.dtype) for number, row in own]
        flat = np.concatenate([np.zeros(0, dtype), *(each.astype(dtype) for each in arrays)]).reshape(shape)
    if kind == "tokens":
        # All ids that the training splits lack are the same one, the first unknown id.
        flat = np.minimum(flat, width)
    else:
        _standardize(flat, samples.corpus[places], np.cumsum(lengths), _scalings(spec, modality))
    mask = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    return _SetPart(SetSteps(torch.from_numpy(flat)), places, mask)


def _scalings(spec: PoolSpec, modality: str) -> _Scalings:
    """Statistics of a standardized modality by number of the corpus."""
    found = ((n, spec.statistics.get(corpus.name, {}).get(modality)) for n, corpus in enumerate(spec.layout.corpora))
    return {number: scaling for number, scaling in found if scaling is not None}


def _standardize(flat: npt.NDArray[np.float32], corpus: Int64Array, ends: Int64Array, scalings: _Scalings) -> None:
    """Standardize steps [N, D] in place, each by the statistics of its sample's corpus.

    Args:
        flat: Steps of M samples, one after another.
        corpus: [M] number of the corpus of each.
        ends: [M] end of its steps.
        scalings: Mean and deviation by number of the corpus.
    """
    # In place, slice by slice: a mask for each corpus copies all steps twice.
    lasts = np.flatnonzero(np.append(corpus[1:] != corpus[:-1], len(corpus) > 0))
    first = 0
    for number, end in zip(corpus[lasts].tolist(), ends[lasts].tolist(), strict=True):
        if scaling := scalings.get(number):
            steps = flat[first:end]
            steps -= scaling[0]
            steps /= scaling[1]
        first = end


def _modality(parts: Sequence[_SetPart], names: Sequence[str], samples: int) -> ModalityBatch:
    """Lay out the steps of all sets of a modality, padded if there is one set, by set otherwise."""
    width = max((part.mask.shape[1] for part in parts), default=0)
    mask = np.zeros((samples, width), bool)
    for part in parts:
        mask[part.places, : part.mask.shape[1]] = part.mask
    if len(parts) == 1:
        flat = parts[0].steps.features
        padded = torch.zeros(samples * width, *flat.shape[1:], dtype=flat.dtype)
        batch = padded_batch(padded.view(samples, width, *flat.shape[1:]), mask)
        padded.index_copy_(0, batch.flat, flat)
        return replace(batch, pieces=parts[0].steps.pieces)
    batch = padded_batch(torch.zeros(samples, width, 0), mask)
    lengths = np.count_nonzero(mask, axis=1)
    first, base = np.zeros(samples, np.int64), 0
    for part in parts:
        own = lengths[part.places]
        first[part.places] = base + np.cumsum(own) - own
        base += int(own.sum())
    ends = np.cumsum(lengths)
    order = np.repeat(first - (ends - lengths), lengths) + np.arange(int(lengths.sum()))
    sets = {name: part.steps for name, part in zip(names, parts, strict=True)}
    return replace(batch, sets=sets, order=torch.from_numpy(order))


def _labels(
    samples: PooledRows, spec: PoolSpec
) -> tuple[list[str], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Ids in slot order; labels, masks and weights by head."""
    count, heads = len(samples.corpus), spec.layout.heads
    ids = [""] * count
    values = {head: np.zeros(count, np.float64) for head in heads}
    masks = {head: np.zeros(count, bool) for head in heads}
    weights = {head: np.ones(count, np.float32) for head in spec.weighted_heads}
    for number in np.unique(samples.corpus).tolist():
        corpus, part = spec.layout.corpora[number], samples.parts[number]
        places, rows = samples.of(number)
        for place, row in zip(places.tolist(), rows, strict=True):
            ids[place] = part.ids[row]
        for task, head in corpus.heads.items():
            own, mask = checked_labels(part, rows, task, corpus.tasks[task])
            masks[head][places] = mask
            values[head][places] = to_head(own, corpus.tasks[task], spec.layout.scale == "unit")
            if head in weights:
                weights[head][places] = _weights(part, rows, own, spec, corpus.name, task)
    return (
        ids,
        {
            head: torch.from_numpy(values[head].astype(np.float32 if spec_.type == "regression" else np.int64))
            for head, spec_ in heads.items()
        },
        {head: torch.from_numpy(mask) for head, mask in masks.items()},
        {head: torch.from_numpy(weight) for head, weight in weights.items()},
    )


def _weights(
    part: Samples, rows: Sequence[int], labels: npt.NDArray[np.float64], spec: PoolSpec, corpus: str, task: str
) -> npt.NDArray[np.float32]:
    """[n] weights of the labels of one corpus and task."""
    weights = np.ones(len(rows), np.float32)
    if corpus in spec.sample_weights:
        name = spec.sample_weights[corpus]
        stored = [part.labels[row].get(name) for row in rows]
        weights = np.array([0.0 if value is None else max(value, 0.0) for value in stored], np.float32)
    by_class = spec.class_weights.get(corpus, {}).get(task)
    return weights if by_class is None else weights * by_class[labels.astype(np.int64)]
