"""Collate samples of several corpora into one micro-batch: feature sets by modality, labels by head.

All corpora that have a feature set are joined at once, so that the time for a batch hardly depends on their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from ivr_dist.data.batches.batch import Batch, ModalityBatch, in_blocks, padded_batch
from ivr_dist.data.batches.collate import checked_labels
from ivr_dist.data.batches.pool_labels import HeadLabels
from ivr_dist.data.batches.pool_sets import ArraySet, WordSet, select_set
from ivr_dist.data.batches.pool_spec import PoolSpec
from ivr_dist.data.batches.pooled_rows import PooledRows

Int64Array = npt.NDArray[np.int64]
_MaskKey = tuple[tuple[int, ...], bytes]


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
    labels = _labels(samples, spec)
    by_mask: dict[_MaskKey, ModalityBatch] = {}
    modalities = {modality: _modality(samples, spec, modality, by_mask) for modality in spec.layout.sets}
    return Batch(
        keys=tuple(samples.take(lambda part: part.ids)),
        slots=torch.from_numpy(np.asarray(slots, np.int64)),
        modalities=in_blocks(modalities),
        labels=labels.labels,
        label_mask=labels.masks,
        positions=torch.from_numpy(np.asarray(positions, np.int64)),
        corpus=torch.from_numpy(samples.corpus),
        label_weight=labels.weights,
    )


def _labels(samples: PooledRows, spec: PoolSpec) -> HeadLabels:
    found = spec.label_columns.collate(samples.take(lambda part: part.labels), samples.corpus)
    if isinstance(found, HeadLabels):
        return found
    place, task = found
    part, row = samples.locate(place)
    checked_labels(part, [row], task, spec.layout.corpora[int(samples.corpus[place])].tasks[task])
    raise AssertionError(f"label {task} of {part.where(row)} is valid")


def _modality(
    samples: PooledRows, spec: PoolSpec, modality: str, by_mask: dict[_MaskKey, ModalityBatch]
) -> ModalityBatch:
    """Lay out the steps of all sets of a modality: padded if there is one set, by set otherwise.

    Args:
        samples: The samples of the batch.
        spec: Contents of the batch.
        modality: The modality.
        by_mask: The modalities so far by their valid steps: aligned modalities share the indices.
    """
    names = list(spec.layout.sets[modality])
    sets = [select_set(samples, spec, modality, name) for name in names]
    mask = _joined_mask([(one.places, one.mask) for one in sets], len(samples))
    only = sets[0] if len(sets) == 1 else None
    features = torch.zeros(*mask.shape, 0) if only is None else only.padded(mask)
    key = mask.shape, mask.tobytes()
    if key in by_mask:
        batch = replace(by_mask[key], features=features)
    else:
        batch = by_mask[key] = padded_batch(features, mask)
    if only is not None:
        return batch if only.pieces is None else replace(batch, pieces=only.pieces)
    steps = {name: one.flat() for name, one in zip(names, sets, strict=True)}
    order = _order(sets, np.count_nonzero(mask, axis=1))
    return replace(batch, sets=steps, order=torch.from_numpy(order))


def _joined_mask(parts: Sequence[tuple[Int64Array, npt.NDArray[np.bool_]]], samples: int) -> npt.NDArray[np.bool_]:
    """[B, T] the valid steps of all sets of a modality, each given by its places and their steps, [M, T_s]."""
    if len(parts) == 1 and len(parts[0][0]) == samples:
        return parts[0][1]
    mask = np.zeros((samples, max((own.shape[1] for _, own in parts), default=0)), bool)
    for places, own in parts:
        mask[places, : own.shape[1]] = own
    return mask


def _order(sets: Sequence[ArraySet | WordSet], lengths: Int64Array) -> Int64Array:
    """[N] index of each valid step in the concatenation of the steps of all sets."""
    first, base = np.zeros(len(lengths), np.int64), 0
    for one in sets:
        first[one.places] = base + np.cumsum(one.lengths) - one.lengths
        base += int(one.lengths.sum())
    ends = np.cumsum(lengths)
    order: Int64Array = np.repeat(first - (ends - lengths), lengths) + np.arange(int(lengths.sum()))
    return order
