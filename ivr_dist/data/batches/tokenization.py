"""Tokenization of transcripts: word pieces for a pretrained encoder, grouped by word; a time step of text is a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from ivr_dist.data.batches.batch import ModalityBatch, Pieces, modality_batch


class Tokenizer(Protocol):
    """Splits words into pieces."""

    padding: int
    """Id of the padding piece."""

    def encode(self, words: Sequence[str]) -> tuple[list[int], list[int | None]]:
        """Encode one text: ids of its pieces, and for each the number of its word, None for special pieces."""


class PieceEncoder(Protocol):
    """A pretrained encoder of word pieces, as far as batches need it; implemented by `model.text_encoder`."""

    @property
    def width(self) -> int:
        """Features of an encoded piece."""

    def tokenizer(self, note: Callable[[str], None] = ...) -> Tokenizer:
        """Return its tokenizer; `note` is called once, when the first text is truncated."""


# decision 029
def word_batch(texts: Sequence[Sequence[str]], tokenizer: Tokenizer) -> ModalityBatch:
    """Tokenize the texts of a batch.

    Args:
        texts: [B] words of each sample; none where it has no transcript.
        tokenizer: Splits words into pieces, and truncates texts at the encoder's limit.

    Returns:
        `features` are the number of pieces of each word, [B, T] int64. A word without a piece (beyond the limit, or of
        characters that the tokenizer drops) is not a valid step.
    """
    encoded = [tokenizer.encode(words) for words in texts]
    width = max((len(ids) for ids, _ in encoded), default=0)
    steps = max((1 + max((w for w in word_of if w is not None), default=-1) for _, word_of in encoded), default=0)
    ids = np.full((len(texts), width), tokenizer.padding, np.int64)
    mask = np.zeros((len(texts), width), bool)
    counts = np.zeros((len(texts), steps), np.int64)
    position, word = [], []
    for row, (own, word_of) in enumerate(encoded):
        ids[row, : len(own)] = own
        mask[row, : len(own)] = True
        # Attention over nothing is undefined: without any piece, the text encoder sees one padding piece.
        mask[row, :1] = True
        for column, number in enumerate(word_of):
            if number is not None:
                counts[row, number] += 1
                position.append(row * width + column)
                word.append(row * steps + number)
    part = modality_batch(torch.from_numpy(counts), torch.from_numpy(counts > 0))
    step_of = np.cumsum(counts.reshape(-1) > 0) - 1
    pieces = Pieces(
        ids=torch.from_numpy(ids),
        mask=torch.from_numpy(mask),
        position=torch.tensor(position, dtype=torch.long),
        step=torch.from_numpy(step_of[np.array(word, np.int64)].astype(np.int64)),
    )
    return replace(part, pieces=pieces)
