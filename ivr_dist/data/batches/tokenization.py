"""Tokenization of transcripts: word pieces for a pretrained encoder, grouped by word; a time step of text is a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ivr_dist.data.batches.batch import ModalityBatch, Pieces, modality_batch
from ivr_dist.data.batches.sequence_packing import one_a_row, pack_rows


class Tokenizer(Protocol):
    """Splits words into pieces."""

    padding: int
    """Id of the padding piece."""
    first_position: int | None
    """Position id of the first piece of a text, where the encoder can read several texts in one row; else None."""

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
    steps = max((1 + max((w for w in word_of if w is not None), default=-1) for _, word_of in encoded), default=0)
    counts = np.zeros((len(texts), steps), np.int64)
    for row, (_, word_of) in enumerate(encoded):
        np.add.at(counts[row], [number for number in word_of if number is not None], 1)
    part = modality_batch(torch.from_numpy(counts), torch.from_numpy(counts > 0))
    step_of = np.cumsum(counts.reshape(-1) > 0).reshape(counts.shape) - 1
    return replace(part, pieces=_pieces(encoded, step_of, tokenizer))


def _pieces(
    encoded: Sequence[tuple[list[int], list[int | None]]], step_of: npt.NDArray[np.int64], tokenizer: Tokenizer
) -> Pieces:
    """Lay out the pieces of all texts in rows; `step_of` [B, T] is the time step of each word."""
    lengths = [len(ids) for ids, _ in encoded]
    packed = tokenizer.first_position is not None
    rows = pack_rows(lengths) if packed else one_a_row(lengths)
    shape = (len(rows), max(lengths, default=0))
    ids = np.full(shape, tokenizer.padding, np.int64)
    text = np.full(shape, -1, np.int64)
    places = np.zeros(shape, np.int64)
    first_piece = np.zeros(len(encoded), np.int64)
    for row, numbers in enumerate(rows):
        start = 0
        for number in numbers:
            own = slice(start, start + lengths[number])
            ids[row, own] = encoded[number][0]
            text[row, own] = number
            places[row, own] = np.arange(lengths[number])
            first_piece[number] = row * shape[1] + start
            start = own.stop
    position = [np.zeros(0, np.int64)]
    step = [np.zeros(0, np.int64)]
    for number, (_, word_of) in enumerate(encoded):
        within = [(place, word) for place, word in enumerate(word_of) if word is not None]
        position.append(first_piece[number] + np.array([place for place, _ in within], np.int64))
        step.append(step_of[number, np.array([word for _, word in within], np.int64)])
    return Pieces(
        ids=torch.from_numpy(ids),
        text=torch.from_numpy(text),
        places=torch.from_numpy(places + tokenizer.first_position) if tokenizer.first_position is not None else None,
        position=torch.from_numpy(np.concatenate(position)),
        step=torch.from_numpy(np.concatenate(step)),
    )
