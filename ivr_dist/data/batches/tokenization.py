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
from ivr_dist.data.text_states import TextStates
from ivr_dist.shards.decode import context_of
from ivr_dist.shards.sample_columns import Samples


class Tokenizer(Protocol):
    """Splits words into pieces."""

    padding: int
    """Id of the padding piece."""
    first_position: int | None
    """Position id of the first piece of a text, where the encoder can read several texts in one row; else None."""

    context: int
    """Number of utterances before a sample whose text is read with it."""
    states: TextStates | None
    """States of all texts after the encoder's first layers, where they are cached."""

    def encode(self, words: Sequence[str], before: Sequence[str] = ()) -> tuple[list[int], list[int | None]]:
        """Encode one text: ids of its pieces, and for each the number of its word, None for all other pieces.

        Args:
            words: Its words.
            before: Words of the utterances before it, whose pieces come first.
        """


class PieceEncoder(Protocol):
    """A pretrained encoder of word pieces, as far as batches need it; implemented by `model.text.text_encoder`."""

    @property
    def width(self) -> int:
        """Features of an encoded piece."""

    def tokenizer(self, note: Callable[[str], None] = ...) -> Tokenizer:
        """Return its tokenizer; `note` is called once, when the first text is truncated."""


# decision 029
def word_batch(
    texts: Sequence[Sequence[str]], tokenizer: Tokenizer, contexts: Sequence[Sequence[str]] = ()
) -> ModalityBatch:
    """Tokenize the texts of a batch.

    Args:
        texts: [B] words of each sample; none where it has no transcript.
        tokenizer: Splits words into pieces, and truncates texts at the encoder's limit.
        contexts: [B] words of the utterances before each sample; empty if they are not read.

    Returns:
        `features` are the number of pieces of each word, [B, T] int64. A word without a piece (beyond the limit, or of
        characters that the tokenizer drops) is not a valid step.
    """
    encoded = [tokenizer.encode(*text) for text in zip(texts, contexts or [()] * len(texts), strict=True)]
    steps = max((1 + max((w for w in word_of if w is not None), default=-1) for _, word_of in encoded), default=0)
    counts = np.zeros((len(texts), steps), np.int64)
    for row, (_, word_of) in enumerate(encoded):
        np.add.at(counts[row], [number for number in word_of if number is not None], 1)
    part = modality_batch(torch.from_numpy(counts), torch.from_numpy(counts > 0))
    step_of = np.cumsum(counts.reshape(-1) > 0).reshape(counts.shape) - 1
    return replace(part, pieces=lay_out(encoded, step_of, tokenizer))


def words_before(samples: Samples, rows: Sequence[int], utterances: int) -> list[list[str]]:
    """Return the words of the utterances before each sample.

    Args:
        samples: Samples with their context.
        rows: [n] rows of the samples.
        utterances: Number of utterances, the last ones of the context.

    Returns:
        [n] words of each; empty if none is read.
    """
    if not utterances:
        return []
    if not samples.contexts:
        return [[] for _ in rows]
    contexts = [context_of(samples.contexts[row])[-utterances:] for row in rows]
    return [[word for utterance in context for word in utterance.text.split()] for context in contexts]


# decision 036
def lay_out(
    encoded: Sequence[tuple[list[int], list[int | None]]], step_of: npt.NDArray[np.int64], tokenizer: Tokenizer
) -> Pieces:
    """Lay out the pieces of B texts in rows.

    Args:
        encoded: [B] ids of the pieces of each text, and their words, as `Tokenizer.encode` returns them.
        step_of: [B, T] time step of each word.
        tokenizer: Where they come from.
    """
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
    states = None
    if tokenizer.states is not None:
        states = np.zeros((*shape, tokenizer.states.width), np.float32)
        by_place = states.reshape(-1, tokenizer.states.width)
        for number, (own_ids, _) in enumerate(encoded):
            if own_ids:
                first = first_piece[number]
                by_place[first : first + len(own_ids)] = tokenizer.states.find(own_ids)
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
        states=None if states is None else torch.from_numpy(states),
    )
