"""Corpus cards: YAML descriptions of a corpus, its files, and how they become samples.

The classes below are the keys of a card; `shards/README.md` explains how to write one. Cards of known corpora are in
the folder `shards/` of a checkout and in the wheel as `ivr_dist/cards/`; they are found by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ivr_dist import storage
from ivr_dist.common.dotted_path import ClassReference, reference
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config.declaration import ClassPath
from ivr_dist.config.yaml_source import Located, read_yaml
from ivr_dist.corpora.card_checks import (
    check_arrays,
    check_file,
    check_labels,
    check_mapped,
    check_shares,
    check_table,
    check_transcript_text,
    check_utterances,
)
from ivr_dist.corpora.card_mappings import (
    ArraysMapping,
    CsdMapping,
    MerbenchMapping,
    MmsaMapping,
    MultMapping,
    TableMapping,
    TranscriptText,
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
    """Its name in the files, if that is another one (formats table, mmsa, mult, ur_funny,
    utterances, merbench)."""
    groups: list[str] | None = None
    """Its groups (videos), where the files do not assign samples to splits (formats arrays, table, csd)."""
    groups_file: str | None = None
    """Or the key of a text file that lists them, one on each line."""


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
    """Splits by name. The keys `by`, `shares` and `seed` among them are `split_by`, `split_shares` and
    `split_seed`."""
    split_by: SplitBy = "group"
    """`clip`: the published split divides groups (videos), which is then a caution instead of an error."""
    split_shares: dict[str, float] | None = None
    """By split, its share of the samples, in any unit: whole groups are assigned to splits by a hash (format table)."""
    split_seed: int = 0
    """Seed of the hash that assigns groups to splits."""
    text: TranscriptText | None = None
    """Text made from the transcripts, instead of `features.text`."""
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

    def optional_modalities(self) -> set[str]:
        """Collect the modalities that a packing may lack, because a file of theirs is optional."""
        mapped: list[tuple[str, str | None]] = []
        if self.utterances is not None:
            mapped = [(name, features.file) for name, features in self.utterances.modalities().items()]
        if self.ur_funny is not None:
            mapping = self.ur_funny
            mapped = [("text", mapping.language), ("text", mapping.vectors)]
            mapped += [("audio", mapping.audio), ("vision", mapping.vision)]
        return {name for name, file in mapped if file is not None and self.files[file].optional}

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
    card = build(Card, _with_split_keys(read_yaml(path)), path)
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
        check_arrays(card, card.arrays, path)
    if card.table is not None:
        check_file(card, card.table.file, "table.file", path)
        check_table(card, card.table, path)
    if card.text is not None:
        check_transcript_text(card, card.text, path)
    for mapping in (card.mmsa, card.mult, card.csd, card.ur_funny, card.utterances, card.merbench):
        for key, file in () if mapping is None else mapping.files().items():
            check_file(card, file, key, path)
    _check_toolkit(card, path)
    return card


def _with_split_keys(document: Located) -> Located:
    """Move the keys of `splits` that are no splits to keys of their own, and add the splits that have a share."""
    splits = document.get("splits")
    if not isinstance(splits, Located):
        return document
    for key in ("by", "shares", "seed"):
        # A split may have this name, too: its value is a mapping of the keys of a split.
        if key in splits and (key == "shares") == isinstance(splits[key], Located):
            document[f"split_{key}"] = splits.pop(key)
            document.origins[f"split_{key}"] = splits.origins.pop(key)
    for name in document.get("split_shares", ()):
        if name not in splits:
            splits[name], splits.origins[name] = Located(), document.origins["split_shares"]
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
        if task.names is not None and not len(set(task.names)) == len(task.names) == task.classes:
            what = f"{len(set(task.names))} different names do not fit {task.classes or 'no'} classes"
            raise ConfigError(what, where=f"{path}, key tasks.{name}.names", remedy="name each class once, from 0 on")
        if task.ordered and task.type != "classification":
            raise ConfigError(
                "only classes are ordered", where=f"{path}, key tasks.{name}.ordered", remedy="leave it out"
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
    check_shares(card, path)
    listed = [split.groups is not None or split.groups_file is not None for split in card.splits.values()]
    if any(listed) and not all(listed):
        raise ConfigError("some splits list groups, others do not", where=path, remedy="list them for all or none")
    for name, split in card.splits.items():
        if split.groups_file is not None:
            check_file(card, split.groups_file, f"splits.{name}.groups_file", path)
    if card.format in _SPLIT_BY_FILE and any(listed):
        raise ConfigError(
            f"the files of format {card.format} define the splits themselves", where=path, remedy="remove groups"
        )
    by_group = card.format not in (*_SPLIT_BY_FILE, "table", "utterances") and card.source_class() is None
    if by_group and any(split.called is not None for split in card.splits.values()):
        raise ConfigError(f"called is not for format {card.format}", where=path, remedy="remove it")


def _check_toolkit(card: Card, path: str) -> None:
    """Check the sections of the formats of other toolkits."""
    if card.mmsa is not None:
        check_labels(card, card.mmsa.labels, "mmsa.labels", path)
        _check_text(card, card.mmsa.text == "text_bert", path)
    if card.utterances is not None:
        check_utterances(card, card.utterances, path)
    if card.merbench is not None:
        check_labels(card, card.merbench.tasks, "merbench.tasks", path)
        check_mapped(card, set(), path)
    if card.mult is not None:
        check_labels(card, card.mult.labels, "mult.labels", path)
        _check_text(card, False, path)
    if card.csd is not None:
        check_labels(card, card.csd.labels.tasks, "csd.labels.tasks", path)
        _check_text(card, False, path)
        if card.csd.vocabulary is not None and card.csd.text is not None:
            raise ConfigError("text comes from a vocabulary and a file", where=path, remedy="remove one of the two")
        if not card.splits_by_group():
            raise ConfigError("no split lists its videos", where=path, remedy="give splits groups or a groups_file")
        check_mapped(card, card.csd.modalities(), path)
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
        check_mapped(card, {name for name, file in mapped_files.items() if file}, path)


def _check_text(card: Card, tokens: bool, path: str) -> None:
    text = card.features.get("text")
    kind = "tokens" if tokens else "features"
    if text is not None and text.kind != kind:
        where, remedy = f"{path}, key features.text", f"set kind: {kind}"
        raise ConfigError(f"the text is {kind}", where=where, remedy=remedy)
