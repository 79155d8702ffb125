"""Format sections of a card: mappings from files to samples, one class for each format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A lookup table for integer ids."""

    array: str
    """Name of the [rows, D] array."""
    file: str | None = None
    """Key of its file; unset: the file of the ids."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One value or sequence for each sample, from an array."""

    array: str
    """Name of the array."""
    file: str | None = None
    """Key of its file; unset: the main file, whose rows are the samples."""
    join: str | None = None
    """In another file: the array of sample ids that assigns its rows to samples."""
    offset: str | None = None
    """[n + 1] array in the same file: row r is entries offset[r] to offset[r + 1] - 1. Unset: it is entry r."""
    lookup: Lookup | None = None
    """The entries are ids; the time steps are the rows of this table."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Earlier utterances that continue the sequence of a sample, newest first."""

    order: str
    """Array of the main file that numbers the utterances of a group in time."""
    before: int
    """Maximum number of utterances before the sample's own."""


@dataclass(frozen=True, kw_only=True)
class ArraysMapping:
    """Mapping from the arrays of .npz files to samples (format `arrays`)."""

    file: str
    """Key of the main file, with one sample in each row."""
    id: str
    """Array of sample ids in the main file."""
    group: str | None = None
    """Array of group names (videos) in the main file."""
    split: str | None = None
    """Array of split names in the main file; unset: the splits list their groups."""
    labels: dict[str, Column]
    """By task."""
    transcript: Column | None = None
    """An array of words, or of one text for each sample."""
    text: Column | None = None
    audio: Column | None = None
    vision: Column | None = None
    context: Context | None = None

    def modalities(self) -> dict[str, Column]:
        """Collect the mapped modalities."""
        columns = {"text": self.text, "audio": self.audio, "vision": self.vision}
        return {name: column for name, column in columns.items() if column is not None}


@dataclass(frozen=True, kw_only=True)
class TableMapping:
    """The file that lists the samples (format `table`): .jsonl, .csv or .tsv.

    Unset keys are the columns (in JSONL, keys) of the same names. A template is text with columns in braces, such as
    `audio/{clip_id}.npy`; `{number:03}` writes a number with at least three digits.
    """

    file: str
    """Key of the file, with one sample in each row."""
    id: str = "id"
    """Column of the unique id of a sample, or a template of several columns."""
    split: str | None = None
    """Column of the split; unset: `split`, unless the splits have shares or groups."""
    group: str | None = None
    """Column of the group (video, speaker) that stays in one split, or a template; unset: `group`, where it exists."""
    labels: dict[str, str] | None = None
    """By task: its column; unset: the column of the task's name. In JSONL, unset means the object `labels`."""
    transcript: str | None = None
    """Column of the transcript; unset: `transcript`, where it exists."""
    text: str | None = None
    """Template of the path of a sample's .npy file; unset: the column `text`, where it exists, holds the path."""
    audio: str | None = None
    vision: str | None = None
    provenance: list[str] = field(default_factory=list)
    """Further columns that are kept with the sample."""
    encoding: str = "utf-8"
    """Encoding of a .csv or .tsv file, such as cp1252."""

    def paths(self) -> dict[str, str]:
        """Return the templates of paths by modality."""
        templates = {"text": self.text, "audio": self.audio, "vision": self.vision}
        return {name: template for name, template in templates.items() if template is not None}

    def is_plain(self) -> bool:
        """Whether nothing but the file is set, so that the rows have the keys of the format themselves."""
        return self == TableMapping(file=self.file, encoding=self.encoding)


@dataclass(frozen=True, kw_only=True)
class TranscriptText:
    """Text from the transcripts: ids of the words of a vocabulary, or vectors of words from a file."""

    from_: Literal["transcript"]
    """Source of the words."""
    vocabulary: int | str | None = None
    """Largest number of words, the most frequent of the training split; or the packed split whose words are used."""
    min_count: int = 2
    """Words that occur less often in the training split count as unknown, which gives the model an example of them."""
    vectors: str | None = None
    """Key of a text file of word vectors, as GloVe and word2vec write them: a word and its numbers on each line."""
    set: str | None = None
    """Name of the feature set; unset: made from a hash of the words, or the key of the vectors."""


@dataclass(frozen=True, kw_only=True)
class MmsaMapping:
    """A pickle of MMSA (format `mmsa`); modalities are those that the card describes."""

    file: str
    """Key of the pickle."""
    labels: dict[str, str]
    """By task: name of its array, such as regression_labels."""
    text: Literal["text", "text_bert"] = "text"
    """Array of the text: vectors, or the ids of BERT's word pieces."""
    padding: Literal["end", "front"] = "end"
    """Side on which audio and vision are padded."""
    separator: str = "$_$"
    """Separator between the video and the clip's number in an id; empty: ids do not name a video."""

    def files(self) -> dict[str, str]:
        """Return the keys of files, by the key of the card that names them."""
        return {"mmsa.file": self.file}


@dataclass(frozen=True, kw_only=True)
class MultMapping:
    """A pickle of MulT or MultiBench (format `mult`); modalities are those that the card describes."""

    file: str
    """Key of the pickle."""
    labels: dict[str, int]
    """By task: its column in `labels` [N, columns, 1]; of [N, columns, 2] in one-hot form, the number of the 1."""
    aligned: bool
    """Whether step t of every modality is the same word; the same padding is then removed from all."""
    separator: str = ""
    """Separator between the video and the rest in an id of one part; empty: such ids do not name a video."""

    def files(self) -> dict[str, str]:
        """Return the keys of files, by the key of the card that names them."""
        return {"mult.file": self.file}


@dataclass(frozen=True, kw_only=True)
class CsdLabels:
    """The labeled segments."""

    file: str
    """Key of the .csd file of labels; its rows are the segments."""
    tasks: dict[str, str]
    """By task: name of its column."""
    columns: list[str] | None = None
    """Names of all columns in their order; unset: taken from the file's metadata."""


@dataclass(frozen=True, kw_only=True)
class CsdVocabulary:
    """Text as one vector for each word, from a table."""

    file: str
    """Key of the .npz file."""
    words: str
    """Name of its array of words."""
    vectors: str
    """Name of its [words, D] array."""
    unknown: int
    """Row for a word that is not in the table."""


@dataclass(frozen=True, kw_only=True)
class CsdMapping:
    """Files of the CMU Multimodal SDK (format `csd`); every time step is a word."""

    words: str
    """Key of the .csd file of words, one in each row with its interval."""
    labels: CsdLabels
    vocabulary: CsdVocabulary | None = None
    """Text by table; or `text`, or neither."""
    text: str | None = None
    """Key of a .csd file whose rows are averaged over each word; the next two likewise."""
    audio: str | None = None
    vision: str | None = None
    pauses: list[str] = field(default_factory=lambda: ["sp"])
    """Entries among the words that mark pauses."""
    first: int = 0
    """Number in the id of the first segment of a video."""
    unlisted: Literal["refuse", "drop"] = "refuse"
    """Treatment of videos that are in no split."""
    fixes: list[Literal["words_one_row_late"]] = field(default_factory=list)
    """Known errors of the files to correct. words_one_row_late: row i has the interval of the word in row i + 1."""

    def averaged(self) -> dict[str, str]:
        """Return the keys of the files that are averaged, by modality."""
        keys = {"text": self.text, "audio": self.audio, "vision": self.vision}
        return {name: file for name, file in keys.items() if file is not None}

    def files(self) -> dict[str, str]:
        """Return the keys of files, by the key of the card that names them."""
        keys = {"csd.words": self.words, "csd.labels.file": self.labels.file}
        if self.vocabulary is not None:
            keys["csd.vocabulary.file"] = self.vocabulary.file
        return keys | {f"csd.{name}": file for name, file in self.averaged().items()}

    def modalities(self) -> set[str]:
        """Collect the mapped modalities."""
        return set(self.averaged()) | ({"text"} if self.vocabulary is not None else set())


@dataclass(frozen=True, kw_only=True)
class UrFunnyMapping:
    """Pickles of UR-FUNNY, version 1 or 2 (format `ur_funny`); every time step is a word."""

    folds: str
    """Key of data_folds: ids by split."""
    labels: str
    """Key of humor_label_sdk: 0 or 1 by id; it is the card's one task."""
    language: str
    """Key of language_sdk, or of word_embedding_indexes_sdk in version 1: word indexes, and in version 2 sentences."""
    vectors: str | None = None
    """Key of word_embedding_list, for text as vectors; unset: text is the word indexes, if the card has text."""
    audio: str | None = None
    """Key of covarep_features_sdk."""
    vision: str | None = None
    """Key of openface_features_sdk."""
    context: Literal["drop", "steps"] = "drop"
    """steps: the words of the sentences before the punchline come before its own, in every modality and the transcript.
    In both cases the provenance holds the context sentences."""

    def files(self) -> dict[str, str]:
        """Return the keys of files, by the key of the card that names them."""
        optional = {"vectors": self.vectors, "audio": self.audio, "vision": self.vision}
        keys = {"folds": self.folds, "labels": self.labels, "language": self.language}
        keys |= {name: file for name, file in optional.items() if file is not None}
        return {f"ur_funny.{name}": file for name, file in keys.items()}


@dataclass(frozen=True, kw_only=True)
class UtteranceContext:
    """The utterances before one that are kept with it, from exactly one of three sources."""

    previous: int | None = None
    """At most so many utterances before it in its group, by `turn`."""
    texts: str | None = None
    """Key of a list of texts in its own entry of a .json file."""
    speakers: str | None = None
    """With `texts`: key of the list of their speakers."""
    unlabeled: str | None = None
    """Column that is empty in rows of context: an utterance has those before it that have the same id."""


@dataclass(frozen=True, kw_only=True)
class NearestSegments:
    """Labels from another table, whose segments of a video are matched by their times."""

    table: str
    """Key of the .csv or .tsv file, with one segment in each row."""
    video: str
    """Its column with the video, which is the group of an utterance."""
    start: str
    """Its column with the start in seconds; the next likewise."""
    end: str
    times: tuple[str, str]
    """Columns of start and end in the tables of utterances."""
    labels: dict[str, str]
    """By task: column of the segments."""
    same: dict[str, str] = field(default_factory=dict)
    """By task of the utterances: column of the segments with the same label, which guards against wrong matches."""
    within: float = 0.5
    """Largest difference of start or end, in seconds."""


@dataclass(frozen=True, kw_only=True)
class FeaturesById:
    """Features of one modality in a file of their own, by the id of the utterance."""

    file: str
    """Key of an .npz file, or of a pickle that is a dictionary of arrays by id."""
    array: str | None = None
    """In an .npz file: the array, [utterances, D], or with `offset` [steps, D]."""
    ids: str | None = None
    """In an .npz file: the array of ids."""
    offset: str | None = None
    """[utterances + 1] array: the steps of row r are offset[r] to offset[r + 1] - 1. Unset: row r is one step."""
    transposed: bool = False
    """In a pickle: arrays are [D, steps]."""


@dataclass(frozen=True, kw_only=True)
class UtterancesMapping:
    """Tables of utterances as their authors publish them (format `utterances`): .csv, .tsv or .json files.

    A template is text with the names of columns in braces, such as `{Season:02}`, which writes at least two digits;
    `{split}` is the name of the split in the files (`called`).
    """

    tables: dict[str, str] = field(default_factory=dict)
    """By split: key of its table."""
    table: str | None = None
    """Or the key of one table of all splits. A .json file is an object of objects by id (column `id`), or a list."""
    hashed: dict[str, list[int]] = field(default_factory=dict)
    """With `table`, where the authors publish no split: by split the last decimal digits of the SHA-256 of its ids."""
    folds: str | None = None
    """With `table`: key of a pickle of (train, test) pairs of row numbers, whose numbers go into the provenance."""
    fold: int | None = None
    """The fold, from 0, that defines train and test; unset: `groups` of the splits do."""
    id: str
    """Template of the id."""
    group: str | None = None
    """Template of the group (dialogue, video)."""
    turn: str | None = None
    """Column with the number of the utterance in its group."""
    transcript: str
    """Column of the text."""
    speaker: str | None = None
    """Column of the speaker, or of a list of them such as `['Ann', 'Bob']`."""
    labels: dict[str, str]
    """By task: its column, with the names of classes (in any case), true and false, or numbers."""
    provenance: list[str] = field(default_factory=list)
    """Columns that are kept in the provenance."""
    context: UtteranceContext | None = None
    nearest: NearestSegments | None = None
    text: FeaturesById | None = None
    audio: FeaturesById | None = None
    vision: FeaturesById | None = None

    def modalities(self) -> dict[str, FeaturesById]:
        """Collect the mapped modalities."""
        mapped = {"text": self.text, "audio": self.audio, "vision": self.vision}
        return {name: features for name, features in mapped.items() if features is not None}

    def files(self) -> dict[str, str]:
        """Return the keys of files, by the key of the card that names them."""
        keys = {f"tables.{split}": file for split, file in self.tables.items()}
        keys |= {f"{name}.file": features.file for name, features in self.modalities().items()}
        optional = {"table": self.table, "folds": self.folds}
        keys |= {name: file for name, file in optional.items() if file is not None}
        if self.nearest is not None:
            keys["nearest.table"] = self.nearest.table
        return {f"utterances.{name}": file for name, file in keys.items()}


@dataclass(frozen=True, kw_only=True)
class MerbenchMapping:
    """Labels and transcripts as MERBench distributes them (format `merbench`)."""

    labels: str
    """Key of label.npz, with an object array `SPLIT_corpus` of a dictionary by clip for each split."""
    transcripts: str
    """Key of the table of transcripts, with the columns name, chinese, english."""
    tasks: dict[str, str]
    """By task: key in the dictionary of a clip, such as val."""
    language: Literal["chinese", "english"] = "chinese"
    """Column of the transcript; the other one goes into the provenance."""

    def files(self) -> dict[str, str]:
        """Return the keys of files, by the key of the card that names them."""
        return {"merbench.labels": self.labels, "merbench.transcripts": self.transcripts}
