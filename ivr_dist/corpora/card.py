"""Corpus cards: YAML descriptions of a corpus, its files, and how they become samples.

The classes below are the keys of a card; `shards/README.md` explains how to write one. Cards of known corpora are in
the folder `shards/` of a checkout and in the wheel as `ivr_dist/cards/`; they are found by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ivr_dist import storage
from ivr_dist.common.dotted_path import ClassReference, reference
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config.declaration import ClassPath
from ivr_dist.config.yaml_source import Located, read_yaml
from ivr_dist.corpora.card_mappings import (
    CsdMapping,
    MerbenchMapping,
    MmsaMapping,
    MultMapping,
    UrFunnyMapping,
    UtterancesMapping,
)
from ivr_dist.corpora.card_parser import build, suggest
from ivr_dist.errors import ConfigError, DataError
from ivr_dist.shards.manifest import MAX_WIDTH
from ivr_dist.shards.specs import FeatureKind, FeatureSpec, SplitBy, TaskSpec

FORMAT = "format"
"""Key of a card: how its files become samples."""
_FORMATS = ("arrays", "table", "mmsa", "mult", "csd", "ur_funny", "utterances", "merbench")
_SPLIT_BY_FILE = ("mmsa", "mult", "ur_funny", "merbench")
_RENAMES_SPLITS = (*_SPLIT_BY_FILE, "utterances")
_WIDTH = f"map an array of 1 to {MAX_WIDTH} features a step"
_NAME = re.compile(r"[A-Za-z0-9_]+")
_FOLDERS = (Path(__file__).parents[1] / "cards", Path(__file__).parents[2] / "shards")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file of the corpus."""

    path: str
    """Path relative to the folder that is packed."""
    sha256: str | None = None
    """Checksum; if set, a file with other content is refused."""
    optional: bool = False
    """Whether a modality is left out where the file is absent (features of format utterances, ur_funny)."""
    origin: str = ""
    """Source of the file, for people; without a checksum, also why there is none."""


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Features of one modality."""

    set: str
    """Name of the feature set; the same name in another corpus means the same features."""
    dim: int | None = None
    """Features of a time step, 1 for tokens; unset: taken from the files."""
    kind: FeatureKind = "features"
    dtype: Literal["float32", "float16"] = "float32"
    """Type of features in the shards; tokens are always int32."""
    origin: str = ""
    """How the features were extracted, for people."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of the corpus."""

    samples: int | None = None
    """Number of samples it must have; unset: any number."""
    called: str | None = None
    """Its name in the files, if that is another one (formats mmsa, mult, ur_funny, merbench, utterances)."""
    groups: list[str] | None = None
    """Its groups (videos), where the files do not assign samples to splits (formats arrays, table, csd)."""
    groups_file: str | None = None
    """Or the key of a text file that lists them, one on each line."""


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
    """The file that lists the samples (format `table`)."""

    file: str
    """Key of the JSONL file, with one sample on each line."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A corpus."""

    name: str
    """Letters, digits and underscores; part of file names."""
    description: str
    citation: str
    licence: str
    access: str = ""
    """How to obtain the data, for people."""
    cautions: list[str] = field(default_factory=list)
    """Known problems of the data that affect results."""
    format: ClassPath
    """How the files become samples: arrays, table, mmsa, mult, csd, ur_funny, utterances or
    merbench; or a source outside the package, as `package.module:Class` or a mapping of `class` and arguments."""
    files: dict[str, SourceFile]
    """Files by the key that the mapping refers to."""
    features: dict[str, FeatureSet]
    """Feature sets by modality."""
    tasks: dict[str, TaskSpec]
    """Tasks by name, which define the labels."""
    splits: dict[str, Split]
    """Splits by name. The key `by` among them is `split_by`."""
    split_by: SplitBy = "group"
    """`clip`: the published split divides groups (videos), which is then a caution instead of an error."""
    arrays: ArraysMapping | None = None
    table: TableMapping | None = None
    mmsa: MmsaMapping | None = None
    mult: MultMapping | None = None
    csd: CsdMapping | None = None
    ur_funny: UrFunnyMapping | None = None
    utterances: UtterancesMapping | None = None
    merbench: MerbenchMapping | None = None

    def feature_specs(self, dims: Mapping[str, int] | None = None) -> dict[str, FeatureSpec]:
        """Make the specifications of the manifest, in the order text, audio, vision.

        Args:
            dims: Features of a time step in the files by modality, where they are known.

        Raises:
            DataError: The card states another number, or neither the card nor the files define one.
        """
        return {
            name: FeatureSpec(
                set=described.set,
                dim=self._dim(name, described, (dims or {}).get(name)),
                dtype="int32" if described.kind == "tokens" else described.dtype,
                kind=described.kind,
            )
            for name in MODALITIES
            if (described := self.features.get(name)) is not None
        }

    def _dim(self, modality: str, described: FeatureSet, in_files: int | None) -> int:
        stated = 1 if described.kind == "tokens" else described.dim
        if stated is not None and in_files is not None and stated != in_files:
            raise DataError(
                f"{modality} has {in_files} features a step, the card says {stated}",
                where=f"card {self.name}",
                remedy="use the files that the card describes, or set another set and dim in the card",
            )
        dim = in_files if stated is None else stated
        if dim is None:
            raise DataError(
                f"no sample has {modality}, and the card does not state the number of features of a step",
                where=f"card {self.name}",
                remedy=f"set features.{modality}.dim, or remove features.{modality}",
            )
        if not 0 < dim <= MAX_WIDTH:
            raise DataError(f"{modality} has {dim} features a step", where=f"card {self.name}", remedy=_WIDTH)
        return dim

    def splits_by_group(self) -> bool:
        """Whether the card assigns groups to splits, instead of the files."""
        return any(split.groups is not None or split.groups_file is not None for split in self.splits.values())

    def verified(self) -> Card:
        """Return this card without checksums, to open files again that were already verified."""
        return replace(self, files={name: replace(file, sha256=None) for name, file in self.files.items()})

    def source_class(self) -> ClassReference | None:
        """The class that reads the files; None for a format of the package."""
        return None if self.format in _FORMATS else reference(self.format, FORMAT)

    def expected_counts(self) -> dict[str, int | None]:
        """Return the number of samples that each split must have; None: any number."""
        return {name: split.samples for name, split in self.splits.items()}


def load_card(path: str) -> Card:
    """Read a card.

    Raises:
        ConfigError: It is not a valid card; names the file, the line, the key and a remedy.
    """
    card = build(Card, _with_split_by(read_yaml(path)), path)
    _check_format(card, path)
    _check_names(card, path)
    _check_paths(card, path)
    _check_splits(card, path)
    sections = [name for name in _FORMATS if getattr(card, name) is not None]
    if class_ref := card.source_class():
        if sections:
            what = f"the section {sections[0]} is not for a class"
            raise ConfigError(what, where=path, remedy=f"remove it; arguments of {class_ref.path} stand beside class")
    elif sections != [card.format]:
        remedy = f"give the section {card.format} and no other"
        raise ConfigError(f"the sections do not match format {card.format}", where=path, remedy=remedy)
    if card.arrays is not None:
        _check_arrays(card, card.arrays, path)
    if card.table is not None:
        _check_file(card, card.table.file, "table.file", path)
    for mapping in (card.mmsa, card.mult, card.csd, card.ur_funny, card.utterances, card.merbench):
        for key, file in () if mapping is None else mapping.files().items():
            _check_file(card, file, key, path)
    _check_toolkit(card, path)
    return card


def _with_split_by(document: Located) -> Located:
    """Move `splits.by`, the one key of `splits` that is no split, to a key of its own."""
    splits = document.get("splits")
    if isinstance(splits, Located) and "by" in splits and not isinstance(splits["by"], Mapping):
        document["split_by"] = splits.pop("by")
        document.origins["split_by"] = splits.origins.pop("by")
    return document


def known_cards() -> dict[str, str]:
    """Find the cards that come with the package; returns their paths by name."""
    return {path.stem: str(path) for folder in _FOLDERS for path in sorted(folder.glob("*.yaml"))}


def find_card(name_or_path: str) -> Card:
    """Read a card by the name of a known corpus, or from a path.

    Raises:
        ConfigError: There is no such card, or it is not valid.
    """
    paths = known_cards()
    if name_or_path in paths:
        return load_card(paths[name_or_path])
    if Path(name_or_path).is_file():
        return load_card(name_or_path)
    remedy = suggest(Path(name_or_path).stem, paths)
    raise ConfigError(f"no card {name_or_path}", remedy=f"{remedy}; or give the path of a card")


def _check_paths(card: Card, path: str) -> None:
    """Refuse paths outside the folder that is packed, because cards may come from an untrusted source."""
    for key, file in card.files.items():
        try:
            joined = storage.join("corpus", file.path)
        except storage.UnsafeNameError:
            joined = ""
        if joined in ("", "corpus") or file.path.startswith("/"):
            what, remedy = f"{file.path!r} leads out of the corpus", "give a path below the folder that is packed"
            raise ConfigError(what, where=f"{path}, key files.{key}", remedy=remedy)


def _check_names(card: Card, path: str) -> None:
    for key, names in (("name", [card.name]), ("tasks", card.tasks), ("splits", card.splits)):
        for name in names:
            if not _NAME.fullmatch(name):
                remedy = "use letters, digits and underscores"
                raise ConfigError(f"{name!r} is not a name", where=f"{path}, key {key}", remedy=remedy)
        if not names:
            raise ConfigError("there must be at least one", where=f"{path}, key {key}", remedy="describe it")
    for name, features in card.features.items():
        if name not in MODALITIES:
            raise ConfigError(f"unknown key features.{name}", where=path, remedy=suggest(name, MODALITIES))
        if features.dim is not None and (
            not 0 < features.dim <= MAX_WIDTH or (features.kind == "tokens" and features.dim != 1)
        ):
            remedy = "it is the number of features of a step, and 1 for tokens"
            raise ConfigError(f"{features.dim} is invalid", where=f"{path}, key features.{name}.dim", remedy=remedy)
    for name, task in card.tasks.items():
        if task.type == "classification" and (task.classes is None or not 2 <= task.classes <= MAX_WIDTH):
            raise ConfigError(
                f"a classification needs 2 or more, up to {MAX_WIDTH}", where=f"{path}, key tasks.{name}.classes"
            )
        if task.type == "regression" and (task.low is None or task.high is None or task.low >= task.high):
            raise ConfigError("a regression needs low and high, low < high", where=f"{path}, key tasks.{name}")


def _check_format(card: Card, path: str) -> None:
    if isinstance(card.format, str) and ":" not in card.format and card.format not in _FORMATS:
        remedy = f"{suggest(card.format, _FORMATS)} or name a class, package.module:Class"
        what = f"{FORMAT}: {card.format!r} is not one of {', '.join(_FORMATS)}"
        raise ConfigError(what, where=f"{path}, key {FORMAT}", remedy=remedy)
    card.source_class()


def _check_splits(card: Card, path: str) -> None:
    split_of: dict[str, str] = {}
    for name, split in card.splits.items():
        for group in split.groups or ():
            if split_of.setdefault(group, name) != name:
                raise ConfigError(f"group {group} is in the splits {split_of[group]} and {name}", where=path)
    listed = [split.groups is not None or split.groups_file is not None for split in card.splits.values()]
    if any(listed) and not all(listed):
        raise ConfigError("some splits list groups, others do not", where=path, remedy="list them for all or none")
    for name, split in card.splits.items():
        if split.groups_file is not None:
            _check_file(card, split.groups_file, f"splits.{name}.groups_file", path)
    if card.format in _SPLIT_BY_FILE and any(listed):
        raise ConfigError(
            f"the files of format {card.format} define the splits themselves", where=path, remedy="remove groups"
        )
    by_group = card.format not in _RENAMES_SPLITS and card.source_class() is None
    if by_group and any(split.called is not None for split in card.splits.values()):
        raise ConfigError(f"called is not for format {card.format}", where=path, remedy="remove it")


def _check_arrays(card: Card, mapping: ArraysMapping, path: str) -> None:
    _check_file(card, mapping.file, "arrays.file", path)
    _check_mapped(card, set(mapping.modalities()), path)
    if (mapping.split is not None) == card.splits_by_group():
        remedy = "set arrays.split, or list the groups of every split"
        raise ConfigError("the split of a sample must be defined in exactly one way", where=path, remedy=remedy)
    if mapping.group is None and (mapping.context is not None or card.splits_by_group()):
        raise ConfigError("context and splits by group need arrays.group", where=path, remedy="set it")
    if mapping.context is not None and mapping.context.before < 1:
        raise ConfigError("must be 1 or more", where=f"{path}, key arrays.context.before")
    _check_labels(card, mapping.labels, "arrays.labels", path)
    columns = {f"labels.{task}": column for task, column in mapping.labels.items()} | mapping.modalities()
    if mapping.transcript is not None:
        columns["transcript"] = mapping.transcript
    for name, column in columns.items():
        _check_column(card, mapping, column, f"arrays.{name}", path)


def _check_toolkit(card: Card, path: str) -> None:
    """Check the sections of the formats of other toolkits."""
    if card.mmsa is not None:
        _check_labels(card, card.mmsa.labels, "mmsa.labels", path)
        _check_text(card, card.mmsa.text == "text_bert", path)
    if card.mult is not None:
        _check_labels(card, card.mult.labels, "mult.labels", path)
        _check_text(card, False, path)
    if card.csd is not None:
        _check_labels(card, card.csd.labels.tasks, "csd.labels.tasks", path)
        _check_text(card, False, path)
        if card.csd.vocabulary is not None and card.csd.text is not None:
            raise ConfigError("text comes from a vocabulary and a file", where=path, remedy="remove one of the two")
        if not card.splits_by_group():
            raise ConfigError("no split lists its videos", where=path, remedy="give splits groups or a groups_file")
        _check_mapped(card, card.csd.modalities(), path)
    if card.ur_funny is not None:
        if len(card.tasks) != 1:
            raise ConfigError("format ur_funny has one task", where=f"{path}, key tasks", remedy="describe that one")
        mapping = card.ur_funny
        _check_text(card, mapping.vectors is None, path)
        mapped_files = {
            "text": "text" in card.features or mapping.vectors,
            "audio": mapping.audio,
            "vision": mapping.vision,
        }
        _check_mapped(card, {name for name, file in mapped_files.items() if file}, path)


def _check_labels(card: Card, labels: Iterable[str], key: str, path: str) -> None:
    for task in labels:
        if task not in card.tasks:
            raise ConfigError(f"unknown key {key}.{task}", where=path, remedy=suggest(task, card.tasks))


def _check_text(card: Card, tokens: bool, path: str) -> None:
    text = card.features.get("text")
    kind = "tokens" if tokens else "features"
    if text is not None and text.kind != kind:
        where, remedy = f"{path}, key features.text", f"set kind: {kind}"
        raise ConfigError(f"the text is {kind}", where=where, remedy=remedy)


def _check_mapped(card: Card, mapped: set[str], path: str) -> None:
    if mapped != set(card.features):
        what = f"features are described for {', '.join(card.features)} and mapped for {', '.join(sorted(mapped))}"
        raise ConfigError(what, where=path, remedy="describe and map the same")


def _check_column(card: Card, mapping: ArraysMapping, column: Column, key: str, path: str) -> None:
    other_file = column.file is not None and column.file != mapping.file
    if column.file is not None:
        _check_file(card, column.file, f"{key}.file", path)
    if column.lookup is not None and column.lookup.file is not None:
        _check_file(card, column.lookup.file, f"{key}.lookup.file", path)
    if other_file != (column.join is not None):
        remedy = (
            "set join to the array of sample ids of that file" if other_file else "remove join, or name another file"
        )
        raise ConfigError("join is for another file than the main one", where=f"{path}, key {key}", remedy=remedy)


def _check_file(card: Card, name: str, key: str, path: str) -> None:
    if name not in card.files:
        raise ConfigError(f"{name} is not a key of files", where=f"{path}, key {key}", remedy=suggest(name, card.files))
