"""Format `ur_funny`: the pickles of UR-FUNNY, versions 1 and 2, with words as time steps.

A sample is a punchline, with the sentences before it as its context. The provenance always holds the text of the
context, which version 2 has; with `context: steps` the words of the context also precede those of the punchline, in
every modality and the transcript. The ids do not name the talk of a sample, so samples have no group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.card_mappings import UrFunnyMapping
from ivr_dist.corpora.card_source import CardSource
from ivr_dist.corpora.readers.pickle_arrays import PickledArray, as_numbers, as_rows, as_texts
from ivr_dist.corpora.readers.safe_pickle import load_pickle
from ivr_dist.corpora.readers.split_pickle import by_split, skipped_note, undescribed
from ivr_dist.corpora.readers.texts import as_spoken, is_missing
from ivr_dist.corpora.source import Array, SampleRef, SourceSample, as_label, check_hygiene, checked_labels
from ivr_dist.errors import DataError
from ivr_dist.shards.npy import NUMBERS

_MAX_SENTENCES = 1000
"""Maximum number of sentences of a context; a list in a pickle may repeat one sentence many times."""
_MAX_CHARACTERS = 100_000
_MAX_REPEATED = 100_000
"""Maximum number of time steps of repeated sentences."""


class UrFunnySource(CardSource):
    """A corpus in UR-FUNNY's pickles.

    The pickles are dictionaries of lists, so they are read completely when the corpus is opened.

    Args:
        root: Folder or URL that the card's paths are relative to.
        card: A card of format `ur_funny`.

    Raises:
        DataError: A file does not match the card, the folds have leakage, or a split has another number of samples than
            the card expects.
    """

    def __init__(self, root: str, card: Card) -> None:
        if card.ur_funny is None:
            raise ValueError(f"card {card.name} is not of format ur_funny")
        self._root = root
        self._card = card
        self._mapping: UrFunnyMapping = card.ur_funny
        (self._task,) = card.tasks
        self._labels = self._read(self._mapping.labels)
        self._language = self._read(self._mapping.language)
        files = {"audio": self._mapping.audio, "vision": self._mapping.vision}
        self._frames = {name: self._read(file) for name, file in files.items() if file is not None}
        self._vectors = None if self._mapping.vectors is None else self._read_vectors(self._mapping.vectors)
        self._keys: dict[str, list[Any]] = {}
        splits = self._read_folds()
        self._features = card.feature_specs(self._widths())
        self._splits = check_hygiene(splits, card.expected_counts(), f"corpus {card.name}", card.split_by)

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Assemble one sample; modalities without an entry in their file are missing.

        Raises:
            DataError: An entry does not have the format's layout, or a word index is beyond the table.
        """
        key = self._keys[split][ref.number]
        where = f"{self._display(self._mapping.language)}, sample {ref.id}"
        label = self._labels.get(key)
        if label is not None and not isinstance(label, int | float | np.floating):
            raise DataError(f"the label is not a number but {type(label).__name__}", where=where)
        entry = self._language.get(key, {})
        try:
            sentence, context = _sentences(entry)
            arrays = {name: self._rows(name, frames.get(key)) for name, frames in self._frames.items()}
            if "text" in self._features:
                arrays["text"] = self._words(entry)
        except (IndexError, TypeError, ValueError) as error:
            raise DataError(str(error), where=where) from None
        spoken = [*context, sentence] if self._mapping.context == "steps" else [sentence]
        return SourceSample(
            id=ref.id,
            split=split,
            group=None,
            labels=checked_labels({} if label is None else {self._task: as_label(label)}, self._card.tasks, where),
            transcript=" ".join(spoken),
            provenance={"file": self._card.files[self._mapping.language].path, "context": context},
            arrays=arrays,
        )

    def _read(self, file: str) -> dict[Any, Any]:
        entries = load_pickle(self._root, self._card.files[file])
        if not isinstance(entries, dict):
            raise DataError("not a dictionary by id", where=self._display(file), remedy="check files in the card")
        return entries

    def _display(self, file: str) -> str:
        return storage.display(storage.join(self._root, self._card.files[file].path))

    def _read_vectors(self, file: str) -> Array:
        try:
            return as_rows(load_pickle(self._root, self._card.files[file]))
        except ValueError as error:
            raise DataError(f"not a table of word vectors: {error}", where=self._display(file)) from None

    def _read_folds(self) -> dict[str, list[SampleRef]]:
        folds, where = self._read(self._mapping.folds), self._display(self._mapping.folds)
        splits = {}
        parts, others = by_split(folds, self._card, where)
        if any(isinstance(folds[name], list | tuple | PickledArray) for name in others):
            raise undescribed(folds, self._card, where)
        self._notes = skipped_note(others, where)
        for name, fold in parts.items():
            try:
                ids = as_texts(fold)
            except ValueError as error:
                raise DataError(f"split {name}: {error}", where=where) from None
            if isinstance(fold, PickledArray):
                fold = fold.load().reshape(-1).tolist() if fold.items is None else fold.items
            self._keys[name] = list(fold)
            splits[name] = [SampleRef(number, id_) for number, id_ in enumerate(ids)]
        keys = [key for fold in self._keys.values() for key in fold]
        if self._language and keys and not any(key in self._language for key in keys):
            what = f"none of its ids is in the language file: {keys[0]!r}, {next(iter(self._language))!r}"
            raise DataError(what, where=where, remedy="use files of one version, with ids of one type")
        return splits

    def _widths(self) -> dict[str, int]:
        """Take the features of a time step by modality, from the first sample that has it."""
        dims = {} if self._vectors is None else {"text": self._vectors.shape[1]}
        for name, frames in self._frames.items():
            for entry in frames.values():
                rows = self._rows(name, entry)
                if rows.shape[1]:
                    dims[name] = rows.shape[1]
                    break
        return dims

    def _parts(self, entry: Any, punchline: str, context: str) -> Iterator[Any]:
        """Iterate over the parts of an entry for each sentence that is kept, in time."""
        if not isinstance(entry, dict) or punchline not in entry:
            raise ValueError(f"an entry without {punchline}")
        if self._mapping.context == "steps":
            yield from _context(entry.get(context))
        yield entry[punchline]

    def _rows(self, name: str, entry: Any) -> Array:
        """Return the [T, D] frames of the sentences that are kept; T = 0 without an entry."""
        if entry is None:
            return np.zeros((0, 0))
        try:
            sentences = list(self._parts(entry, "punchline_features", "context_features"))
            _refuse_repeated(sentences)
            parts = [as_rows(part) for part in sentences]
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: {error}", where=f"corpus {self._card.name}") from None
        spoken = [part for part in parts if len(part)]
        if len({part.shape[1] for part in spoken}) > 1:
            widths = sorted({part.shape[1] for part in spoken})
            what = f"{name}: sentences of {' and '.join(map(str, widths))} features a step"
            raise DataError(what, where=f"corpus {self._card.name}")
        return np.concatenate(spoken) if spoken else parts[0]

    def _words(self, entry: Any) -> Array:
        """Return the [T] word indexes of the sentences that are kept, or their [T, D] vectors."""
        if not entry:
            return np.zeros((0,))
        parts = list(self._parts(entry, "punchline_embedding_indexes", "context_embedding_indexes"))
        _refuse_repeated(parts)
        indexes = np.concatenate([_indexes(part) for part in parts])
        if self._vectors is None:
            return indexes
        if len(indexes) and (indexes.min() < 0 or indexes.max() >= len(self._vectors)):
            raise ValueError(f"a word index is not in the table of {len(self._vectors)} vectors")
        return self._vectors[indexes]  # type: ignore[no-any-return]


def _refuse_repeated(sentences: Sequence[Any]) -> None:
    """Refuse a list that repeats one long sentence many times, as a pickle can; short ones may really be repeated."""
    if not all(isinstance(sentence, list | tuple | PickledArray) for sentence in sentences):
        raise ValueError("not a list of steps")
    distinct = {id(sentence): len(sentence) for sentence in sentences}
    repeated = sum(map(len, sentences)) - sum(distinct.values())
    if repeated > _MAX_REPEATED:
        raise ValueError(f"{repeated} steps of a sample are the same sentences again")


def _indexes(words: Any) -> Array:
    """Convert word indexes to [T]; the files have them flat, or as a list of one for each word."""
    if isinstance(words, PickledArray) and words.items is None:
        values = words.load().reshape(-1)
    else:
        listed = words.items or [] if isinstance(words, PickledArray) else words
        single = [word[0] if isinstance(word, list | tuple) and word else word for word in listed]
        values = as_numbers(single)
    if values.dtype.kind not in NUMBERS:
        raise ValueError("word indexes that are not numbers of 64 bits or less")
    with np.errstate(invalid="ignore"):
        indexes = values.astype(np.int64)
    if not np.array_equal(indexes, values):
        raise ValueError("word indexes that are not whole numbers")
    return indexes


def _sentences(entry: Any) -> tuple[str, list[str]]:
    """Return the punchline and the sentences before it; empty in version 1, which has no text."""
    if not isinstance(entry, dict):
        raise ValueError("an entry that is not a dictionary")
    context = _context(entry.get("context_sentences"))
    return _sentence(entry.get("punchline_sentence", "")), [_sentence(sentence) for sentence in context]


def _context(sentences: Any) -> Sequence[Any]:
    """List the parts of an entry for each sentence before the punchline; None means none."""
    if isinstance(sentences, PickledArray):
        sentences = sentences.load().tolist() if sentences.items is None else sentences.items
    if not isinstance(sentences, list | tuple | type(None)):
        raise ValueError("a context that is not a list of sentences")
    if len(sentences or ()) > _MAX_SENTENCES:
        raise ValueError(f"a context of {len(sentences or ())} sentences")
    return sentences or ()


def _sentence(value: Any) -> str:
    """Convert a sentence to text, from a text, a list of one text, or a list of words."""
    words = as_texts([value] if isinstance(value, str | bytes) or is_missing(value) else value, as_spoken)
    if sum(map(len, words)) > _MAX_CHARACTERS:
        raise ValueError(f"a sentence of more than {_MAX_CHARACTERS} characters")
    return " ".join(words)
