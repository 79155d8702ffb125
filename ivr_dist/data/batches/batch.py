"""Batch: one padded micro-batch of one rank, as the model reads it.

Shapes: B samples, T_m time steps of modality m (padded to the longest of the batch), D_m features. `N_m` is the number
of valid steps of modality m over the whole batch. Any of B, T_m and N_m may be 0: a rank without a slot of a global
batch still takes part in every collective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ivr_dist.data.batches.length_buckets import Blocks, blocks_of, one_block
from ivr_dist.data.batches.tensor_dataclass import Tensors


@dataclass(frozen=True)
class Pieces(Tensors):
    """Word pieces of a batch of texts in R rows of S places; M of them belong to words."""

    ids: Tensor
    """[R, S] int64, ids of a pretrained encoder's vocabulary."""
    text: Tensor
    """[R, S] int64, number of the text of each piece in the batch; -1 in the padding. No text is divided between rows,
    and none without a piece has a place."""
    places: Tensor | None
    """[R, S] int64, position ids of the pieces, which start again with each text; None if no row has several texts, so
    that the encoder numbers its pieces itself."""
    position: Tensor
    """[M] int64, positions of the words' pieces in the flattened [R * S], text by text."""
    step: Tensor
    """[M] int64, ascending: the time step (0..N-1) of the word of each piece."""
    states: Tensor | None = None
    """[R, S, D] float32, states after the encoder's first layers, 0 in the padding; None if they are not cached."""


@dataclass(frozen=True)
class SetSteps(Tensors):
    """The valid steps of one feature set of a modality, N_s of them, in the order of the samples; N_s may be 0."""

    features: Tensor
    """[N_s, D_s] float32; [N_s] int64 token ids; or [N_s] int64 numbers of pieces of each word."""
    pieces: Pieces | None = None
    """Input of a pretrained text encoder, where the steps are words; `step` counts within this set."""


@dataclass(frozen=True)
class ModalityBatch(Tensors):
    """One modality of a batch.

    The collator computes the flat indices on the host, so that work by time step runs on valid steps only and the model
    compiles without data-dependent shapes.
    """

    features: Tensor
    """[B, T, D] float32, 0 in the padding; [B, T] int64 token ids; or [B, T] int64 numbers of pieces of each word.
    [B, T, 0] where the modality has several feature sets, whose steps are in `sets`."""
    mask: Tensor
    """[B, T] bool, true where a time step is valid; a row without any is a missing modality."""
    flat: Tensor
    """[N] int64, positions of the valid steps in the flattened [B * T], ascending."""
    sample: Tensor
    """[N] int64, the sample (0..B-1) of each valid step."""
    pairs: Tensor
    """[P] int64, indices n in 0..N-1 such that valid steps n and n + 1 are neighbors in one sample."""
    blocks: Blocks
    """Length buckets: samples of similar length together. All modalities of a batch have the same ones, each with its
    own positions."""
    pieces: Pieces | None = None
    """Input of a pretrained text encoder, where the time steps are words."""
    sets: Mapping[str, SetSteps] = field(default_factory=dict)
    """By feature set, in the order of their names, where the modality has several: every set of the run, even if no
    sample of the batch has it. Empty where the modality has one set."""
    order: Tensor | None = None
    """[N] int64: index of each valid step in the concatenation of the steps of all `sets`; None where these are
    empty."""

    @property
    def present(self) -> Tensor:
        """[B] bool, true where the sample has at least one valid step."""
        return self.mask.any(dim=1) if self.mask.shape[1] else self.mask.new_zeros(self.mask.shape[0])


@dataclass(frozen=True)
class Batch(Tensors):
    """One micro-batch of one rank: the samples of a contiguous range of slots of the global batch."""

    keys: tuple[str, ...]
    """Sample ids, in slot order."""
    slots: Tensor
    """[B] int64, each sample's slot in the global batch (0..G-1), ascending; slots without a sample are left out."""
    modalities: Mapping[str, ModalityBatch]
    """By modality name, in the order of MODALITIES; every modality of the data set, even if all samples lack it."""
    labels: Mapping[str, Tensor]
    """By task: [B] float32 (regression) or int64 (classification), 0 where the label is missing."""
    label_mask: Mapping[str, Tensor]
    """By task: [B] bool, true where the sample has a label."""
    positions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """[B] int64, each sample's number in its data set (shard order of the manifest), unique within one epoch."""
    corpus: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """[B] int64, number of each sample's corpus in `PoolLayout.corpora`; empty where there is one corpus."""
    label_weight: Mapping[str, Tensor] = field(default_factory=dict)
    """By task, of those that a corpus weights by class or by sample: [B] float32, the weight of the sample's error."""

    def __len__(self) -> int:
        """Count the samples of this micro-batch, 0 or more."""
        return len(self.keys)


def modality_batch(features: Tensor, mask: Tensor) -> ModalityBatch:
    """Compute the flat indices of a padded modality, with all samples in one block.

    Args:
        features: [B, T, D] or [B, T]; values in the padding are replaced by 0.
        mask: [B, T] bool. Valid steps need not be contiguous; two valid steps are neighbors if there is no other valid
            step of the same sample between them.
    """
    keep = mask if features.dim() == 2 else mask[..., None]
    return padded_batch(torch.where(keep, features, features.new_zeros(())), mask.numpy())


def padded_batch(features: Tensor, mask: npt.NDArray[np.bool_]) -> ModalityBatch:
    """Compute the flat indices like `modality_batch`, for features [B, T, D] or [B, T] with 0 in the padding."""
    # With numpy: on arrays as small as these its calls take half the time of torch's.
    flat = np.flatnonzero(mask)
    sample = np.repeat(np.arange(len(mask)), np.count_nonzero(mask, axis=1))
    pairs = np.flatnonzero(sample[1:] == sample[:-1])
    return ModalityBatch(
        features=features,
        mask=torch.from_numpy(mask),
        flat=torch.from_numpy(flat),
        sample=torch.from_numpy(sample),
        pairs=torch.from_numpy(pairs),
        blocks=one_block(*mask.shape),
    )


def in_blocks(modalities: Mapping[str, ModalityBatch]) -> dict[str, ModalityBatch]:
    """Divide the samples of a batch into blocks of similar length (length bucketing)."""
    blocks = blocks_of([np.count_nonzero(part.mask.numpy(), axis=1) for part in modalities.values()])
    pairs = zip(modalities.items(), blocks, strict=True)
    return {name: part if own is part.blocks else replace(part, blocks=own) for (name, part), own in pairs}
