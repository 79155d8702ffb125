"""What the reader hands to the model: one padded micro-batch of one rank.

Shapes: B samples, T_m steps of modality m (padded to the longest of the batch), D_m features. `N_m` counts the valid
steps of modality m over the whole batch. Any of B, T_m and N_m may be 0: a rank that holds no slot of a global batch
still takes part in every collective.
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
    """The word pieces of a batch of texts. S places, M pieces that belong to a word."""

    ids: Tensor
    """[B, S] int64, ids of a pretrained encoder's vocabulary."""
    mask: Tensor
    """[B, S] bool, true where there is a piece, special ones included."""
    place: Tensor
    """[M] int64, places of the words' pieces in the flattened [B * S], ascending."""
    step: Tensor
    """[M] int64, the step (0..N-1) of the word of each."""


@dataclass(frozen=True)
class ModalityBatch(Tensors):
    """One modality of a batch.

    The flat indices are made by the collator, on the host, so that per-step work runs on valid steps only and the model
    compiles without data-dependent shapes.
    """

    features: Tensor
    """[B, T, D] float32, 0 in the padding; [B, T] int64 token ids; or [B, T] int64 numbers of pieces of each word."""
    mask: Tensor
    """[B, T] bool, true where a step is valid; a row without a true is a missing modality."""
    flat: Tensor
    """[N] int64, positions of the valid steps in the flattened [B * T], ascending."""
    sample: Tensor
    """[N] int64, the sample (0..B-1) of each valid step."""
    pairs: Tensor
    """[P] int64, positions n in 0..N-1 such that valid steps n and n + 1 are neighbours in one sample."""
    blocks: Blocks
    """Samples of similar length together; the same for all modalities of a batch but for the places."""
    pieces: Pieces | None = None
    """What a pretrained text encoder reads, where the steps are words."""

    @property
    def present(self) -> Tensor:
        """[B] bool, true where the sample has at least one valid step."""
        return self.mask.any(dim=1) if self.mask.shape[1] else self.mask.new_zeros(self.mask.shape[0])


@dataclass(frozen=True)
class Batch(Tensors):
    """One micro-batch of one rank: the samples of a contiguous range of slots of the global batch."""

    keys: tuple[str, ...]
    """The sample ids as decoded from the shards, in slot order."""
    slots: Tensor
    """[B] int64, each sample's slot in the global batch (0..G-1), ascending; slots without a sample are left out."""
    modalities: Mapping[str, ModalityBatch]
    """By modality name, in the order of MODALITIES; every modality of the data set, also where all samples miss it."""
    labels: Mapping[str, Tensor]
    """By task: [B] float32 (regression) or int64 (classification), 0 where the label is missing."""
    label_mask: Mapping[str, Tensor]
    """By task: [B] bool, true where the sample carries a label."""
    positions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """[B] int64, each sample's number in its data set (shard order of the manifest), unique within one epoch."""

    def __len__(self) -> int:
        """Samples in this micro-batch; 0 is allowed."""
        return len(self.keys)


def modality_batch(features: Tensor, mask: Tensor) -> ModalityBatch:
    """Derive the flat indices of a padded modality, whose samples are in one block.

    Args:
        features: [B, T, D] or [B, T]; what stands in the padding is replaced by 0.
        mask: [B, T] bool. Valid steps need not be contiguous; two valid steps are neighbours when no other valid step
            of the same sample lies between them.
    """
    keep = mask if features.dim() == 2 else mask[..., None]
    return padded_batch(torch.where(keep, features, features.new_zeros(())), mask.numpy())


def padded_batch(features: Tensor, mask: npt.NDArray[np.bool_]) -> ModalityBatch:
    """Like `modality_batch`, for features [B, T, D] or [B, T] that are 0 in the padding already."""
    # By numpy: on arrays as small as these its calls take half the time of torch's.
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
    """The modalities of one batch with its samples in blocks of similar length."""
    blocks = blocks_of([np.count_nonzero(part.mask.numpy(), axis=1) for part in modalities.values()])
    named = zip(modalities.items(), blocks, strict=True)
    return {name: part if own is part.blocks else replace(part, blocks=own) for (name, part), own in named}
