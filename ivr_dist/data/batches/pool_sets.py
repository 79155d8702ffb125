"""Feature sets of a pooled batch: the steps of all corpora that have a set, joined in one call and standardized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ivr_dist.data.batches.batch import Pieces, SetSteps
from ivr_dist.data.batches.collate import pad_steps
from ivr_dist.data.batches.pool_spec import PoolSpec, Scalings
from ivr_dist.data.batches.pooled_rows import PooledRows
from ivr_dist.data.batches.tokenization import Tokenizer, word_batch, words_before
from ivr_dist.planning.pool_layout import WORDS, Input
from ivr_dist.shards.decode import spaced_words
from ivr_dist.shards.member_layout import Kind
from ivr_dist.shards.sample_columns import Column

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ArraySet:
    """A set that is stored as arrays: those M samples of a batch whose corpora have it, N_s steps in all."""

    places: Int64Array
    """[M] place of each sample in the batch, ascending."""
    lengths: Int64Array
    """[M] steps of each."""
    column: Column
    """[M] arrays as stored, in one type."""
    layout: Input
    """Kind and width."""
    scalings: Scalings | None
    """Statistics of the set, where it is standardized."""
    rows: Int64Array
    """[M] row of each sample's statistics."""
    pieces: Pieces | None = None
    """Only words have pieces."""

    def flat(self) -> SetSteps:
        """Return the steps, sample after sample."""
        kind, width = self.layout
        stored = self.column.kind
        steps: npt.NDArray[Any] = np.ndarray(
            stored.shape(int(self.lengths.sum())), stored.dtype, bytearray().join(self.column.values)
        )
        if kind == "tokens":
            # See `pad_steps`.
            return SetSteps(torch.from_numpy(np.minimum(steps.astype(np.int64, copy=False), width)))
        steps = steps.astype(np.float32, copy=False)
        if self.scalings is not None:
            mean, deviation = self.scalings.of_rows(np.repeat(self.rows, self.lengths))
            steps -= mean
            steps /= deviation
        return SetSteps(torch.from_numpy(steps))

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """[M, T] the valid steps."""
        return np.arange(int(self.lengths.max(initial=0))) < self.lengths[:, None]

    def padded(self, mask: npt.NDArray[np.bool_]) -> Tensor:
        """Pad the steps of the modality's only set to the valid steps of all samples, [B, T, D] or [B, T]."""
        samples, width = mask.shape
        scaling = None if self.scalings is None else self.scalings.of_rows(self.rows[:, None])
        steps = pad_steps(self.column, self.lengths, width, self.layout, scaling)
        if len(self.places) == samples:
            return steps
        padded = torch.zeros(samples, *steps.shape[1:], dtype=steps.dtype)
        padded[torch.from_numpy(self.places)] = steps
        return padded


@dataclass(frozen=True)
class WordSet:
    """Transcripts that a pretrained encoder reads, of those M samples of a batch whose corpora have them."""

    places: Int64Array
    """[M] place of each sample in the batch, ascending."""
    lengths: Int64Array
    """[M] valid steps of each."""
    steps: SetSteps
    """Numbers of pieces of each word, and the pieces."""

    mask: npt.NDArray[np.bool_]
    """[M, T] the valid steps: words without a piece are none."""

    @classmethod
    def of(cls, samples: PooledRows, places: Int64Array, tokenizer: Tokenizer) -> WordSet:
        """Split the transcripts of M samples into pieces."""
        stored = [samples.locate(place) for place in range(len(samples))]
        texts = [spaced_words(part.transcripts[row]) for part, row in stored]
        before = [words for part, row in stored for words in words_before(part, [row], tokenizer.context)]
        batch = word_batch(texts, tokenizer, before)
        counts = batch.features.flatten().index_select(0, batch.flat)
        mask = batch.mask.numpy()
        return cls(places, np.count_nonzero(mask, axis=1), SetSteps(counts, batch.pieces), mask)

    @property
    def pieces(self) -> Pieces | None:
        """The pieces of all words."""
        return self.steps.pieces

    def flat(self) -> SetSteps:
        """Return the steps, sample after sample."""
        return self.steps

    def padded(self, mask: npt.NDArray[np.bool_]) -> Tensor:
        """Lay out the steps of the modality's only set at the valid steps of all samples of the batch, [B, T]."""
        padded = torch.zeros(mask.shape, dtype=self.steps.features.dtype)
        padded[torch.from_numpy(mask)] = self.steps.features
        return padded


def select_set(samples: PooledRows, spec: PoolSpec, modality: str, name: str) -> ArraySet | WordSet:
    """Select the samples of a batch whose corpora have a set.

    Args:
        samples: The samples of the batch.
        spec: Contents of the batch.
        modality: Modality of the set.
        name: Name of the set.
    """
    kind, width = spec.layout.sets[modality][name]
    is_own = spec.has_set[modality][name][samples.corpus]
    places = np.arange(len(samples)) if is_own.all() else np.flatnonzero(is_own)
    own = samples.subset(places)
    if kind == WORDS:
        assert spec.tokenizer is not None
        return WordSet.of(own, places, spec.tokenizer)
    columns = [part.columns[modality] for part in own.used_parts()]
    stored = columns[0].kind if columns else Kind(np.dtype(np.float32), None if kind == "tokens" else width)
    values: Sequence[bytes | memoryview] = own.take(lambda part: part.columns[modality].values)
    if any(column.kind.dtype != stored.dtype for column in columns):
        # Corpora that store the set in other types: each is converted by itself, to the type that the model reads.
        types = own.take(lambda part: [part.columns[modality].kind.dtype] * len(part))
        stored = Kind(np.dtype(np.int64 if kind == "tokens" else np.float32), stored.dim)
        arrays = map(np.frombuffer, values, types)
        values = [array.astype(stored.dtype).tobytes() for array in arrays]
    steps = own.take(lambda part: part.columns[modality].steps)
    lengths: Int64Array = np.maximum(np.array(steps, np.int64), 0)
    scalings = spec.scalings[modality].get(name)
    rows = lengths if scalings is None else scalings.row[own.corpus]
    return ArraySet(places, lengths, Column(stored, steps, values), (kind, width), scalings, rows)
