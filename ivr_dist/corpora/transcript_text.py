"""Text made from transcripts: ids of a vocabulary of the training split, or word vectors from a file.

A card asks for it by its section `text` (`TranscriptText`). Words are those of `shards.decode.words_of`, in lower case
and without punctuation at their ends. Whatever the number of packing processes, the words are counted once, before the
first shard is made, and travel to the others with the opener of the corpus.
"""

from __future__ import annotations

import hashlib
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.card_mappings import TranscriptText
from ivr_dist.corpora.readers.word_vectors import read_vectors
from ivr_dist.corpora.source import (
    Array,
    Dropped,
    GivesTranscripts,
    NamesFiles,
    SampleRef,
    Source,
    SourceSample,
    dropped_by,
    notes_of,
    split_by_of,
)
from ivr_dist.errors import DataError
from ivr_dist.shards.decode import words_of
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import FeatureSpec, SplitBy, TaskSpec

UNKNOWN = "<unk>"
"""The word of id 0, for all words that are not in the vocabulary."""
_TRAIN = "train"
_SHOWN = 5


@dataclass(frozen=True)
class WordTable:
    """What each word becomes; can be pickled."""

    set: str
    """Name of the feature set."""
    words: tuple[str, ...]
    """The words in the order of their ids, or of the rows of `vectors`."""
    vectors: Array | None = None
    """[words, D] float32 vectors; None: text is the ids."""
    notes: tuple[str, ...] = ()
    """What the user should know about the words, a sentence each."""

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @property
    def spec(self) -> FeatureSpec:
        """Specification of the features."""
        if self.vectors is None:
            return FeatureSpec(set=self.set, dim=1, dtype="int32", kind="tokens")
        return FeatureSpec(set=self.set, dim=self.vectors.shape[1], dtype="float32", kind="features")

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the text of a sample."""
        digest = hashlib.sha256(repr((self.set, self.words)).encode("utf-8", "surrogatepass"))
        if self.vectors is not None:
            digest.update(np.ascontiguousarray(self.vectors).tobytes())
        return digest.hexdigest()

    def text(self, transcript: str) -> Array | None:
        """Convert a transcript: [T] ids or [T, D] vectors, zero for unknown words; None if it has no word."""
        words = words_of(transcript)
        if not words:
            return None
        if self.vectors is None:
            return np.array([self._numbers.get(normalized(word), 0) for word in words], np.int32)
        rows = [self._numbers.get(word, self._numbers.get(normalized(word), -1)) for word in words]
        text: Array = self.vectors[np.array(rows)]
        text[np.array(rows) < 0] = 0
        return text


class TextSource:
    """A source whose text is made from the transcripts of another one.

    Args:
        source: The other source, without text of its own.
        table: What each word becomes.
    """

    def __init__(self, source: Source, table: WordTable) -> None:
        self._source = source
        self.table = table
        self.corpus: str = source.corpus
        self.features: Mapping[str, FeatureSpec] = {"text": table.spec, **source.features}
        self.tasks: Mapping[str, TaskSpec] = source.tasks

    @property
    def split_by(self) -> SplitBy:
        """What the splits of the other source keep together."""
        return split_by_of(self._source)

    def words(self) -> Mapping[str, Sequence[str]]:
        """List the words of token ids by modality."""
        return {"text": self.table.words} if self.table.vectors is None else {}

    def splits(self) -> Mapping[str, Sequence[SampleRef]]:
        """List the samples of the other source."""
        return self._source.splits()

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Load a sample of the other source and add its text."""
        sample = self._source.load(split, ref)
        text = self.table.text(sample.transcript)
        return sample if text is None else replace(sample, arrays={"text": text, **sample.arrays})

    def notes(self) -> Sequence[str]:
        """List the notes of the other source, then those about the words."""
        return [*notes_of(self._source), *self.table.notes]

    def dropped(self) -> Sequence[Dropped]:
        """List what the other source drops."""
        return dropped_by(self._source)

    def paths(self) -> Sequence[str]:
        """List the files that the other source reads."""
        return self._source.paths() if isinstance(self._source, NamesFiles) else ()


def normalized(word: str) -> str:
    """Return a word in lower case (NFKC), without punctuation at its ends unless it has nothing else."""
    word = unicodedata.normalize("NFKC", word).casefold()
    first, last = 0, len(word)
    while first < last and _is_punctuation(word[first]):
        first += 1
    while last > first and _is_punctuation(word[last - 1]):
        last -= 1
    return word[first:last] or word


def make_table(source: Source, card: Card, text: TranscriptText, root: str) -> WordTable:
    """Make the word table of a corpus.

    Args:
        source: The corpus without text.
        card: Its card.
        text: The section `text` of the card.
        root: Folder or URL that the card's paths are relative to.

    Raises:
        DataError: There is no training split or no word, the packed split has no words, or the file of vectors is
            damaged.
    """
    if text.vectors is not None:
        return _vectors(source, card, text, root)
    where = f"card {card.name}, key text.vocabulary"
    if isinstance(text.vocabulary, str):
        words = Manifest.load(text.vocabulary).words.get("text")
        if not words:
            remedy = "name a split that was packed with text.vocabulary"
            raise DataError("the packed split has no words", where=storage.display(text.vocabulary), remedy=remedy)
        return WordTable(text.set or _set_name(words), tuple(words))
    assert text.vocabulary is not None
    counts = Counter(map(normalized, _words(source, [_TRAIN])))
    if not counts:
        remedy = "map the transcript, or remove text"
        raise DataError("no sample of the split train has a transcript", where=where, remedy=remedy)
    frequent = [(word, count) for word, count in counts.items() if count >= text.min_count]
    frequent.sort(key=lambda entry: (-entry[1], entry[0]))
    kept = frequent[: text.vocabulary]
    words = [UNKNOWN, *(word for word, _ in kept if word != UNKNOWN)]
    unknown = 1 - sum(count for _, count in kept) / counts.total()
    note = (
        f"text is the ids of {len(words) - 1:,} of the {len(counts):,} words of train, the others are {UNKNOWN} "
        f"({100 * unknown:.1f} % of the words spoken)"
    )
    return WordTable(text.set or _set_name(words), tuple(words), notes=(note,))


def _vectors(source: Source, card: Card, text: TranscriptText, root: str) -> WordTable:
    assert text.vectors is not None
    spoken = Counter(_words(source, source.splits()))
    wanted = spoken.keys() | set(map(normalized, spoken))
    vectors = read_vectors(root, card.files[text.vectors], wanted)
    words = sorted(vectors)
    if not words:
        remedy = "check the language and the file of text.vectors"
        raise DataError("no word of the transcripts has a vector", where=f"card {card.name}", remedy=remedy)
    unknown = Counter({w: n for w, n in spoken.items() if w not in vectors and normalized(w) not in vectors})
    notes = []
    if unknown:
        first = ", ".join(sorted(unknown, key=lambda word: (-unknown[word], word))[:_SHOWN])
        notes.append(
            f"{unknown.total():,} of {spoken.total():,} words have no vector and become zeros "
            f"({len(unknown):,} different: {first}{', ...' if len(unknown) > _SHOWN else ''})"
        )
    return WordTable(text.set or text.vectors, tuple(words), np.stack([vectors[word] for word in words]), tuple(notes))


def _words(source: Source, splits: Sequence[str] | Mapping[str, object]) -> Iterator[str]:
    """Yield the words of all transcripts of some splits, without reading arrays where the source can."""
    for split in splits:
        for ref in source.splits().get(split, ()):
            if isinstance(source, GivesTranscripts):
                transcript = source.transcript(split, ref)
            else:
                transcript = source.load(split, ref).transcript
            yield from words_of(transcript)


def _set_name(words: Sequence[str]) -> str:
    """Name a vocabulary by its words: equal names mean equal ids."""
    digest = hashlib.sha256("\n".join(words).encode("utf-8", "surrogatepass")).hexdigest()
    return f"words_{digest[:8]}"


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character)[0] in "PS"
