"""The manifest of a packed split (`manifest.json`): its features, tasks, statistics and shards.

A whole epoch is planned from it, without opening a shard. It is written last, so a manifest that can be read means
that all shards exist.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.common import strict_json
from ivr_dist.common.decoder import decode
from ivr_dist.common.file_signatures import HEAD, decode_text, other_kind
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.sanitize import shorten
from ivr_dist.shards.shard_table import IndexEntry, ShardColumns, ShardEntry
from ivr_dist.shards.specs import FeatureSpec, HashesEntry, SplitBy, Statistics, TaskSpec

__all__ = ["IndexEntry", "Manifest", "ShardEntry"]

FORMAT = "ivr-shards"
VERSION = 1
MANIFEST_NAME = "manifest.json"
TABLE_NAME = "manifest.shards"
TEXT_STATES = "text_states"
"""Directory of a split in which training keeps states of texts; the manifest does not list it."""

_REMEDY = "pack the split again"
_COUNTED = ("vocabulary", "transcripts", "segmented", "labels", "split_by", "hashes")
_OPTIONAL = (*_COUNTED, "words")
_MAX_SAMPLES = 1 << 62
_LARGEST = float(np.finfo(np.float32).max)
MAX_WIDTH = 1 << 24
"""Maximum number of features of a time step, and of classes."""
_DTYPE = re.compile(r"[a-z]{1,8}\d{1,3}|[<>][a-z]\d{1,2}")
_LONGEST_LIST = 4096
"""Maximum number of shards that the manifest lists itself, and whose files are all checked before a run."""
_CHECKED = 64
"""Number of shards that are checked where there are more, spread over all of them."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One split of one corpus."""

    corpus: str
    split: str
    samples: int
    seed: int
    """Seed of the packing order."""
    features: dict[str, FeatureSpec]
    """By modality, in the order of MODALITIES."""
    tasks: dict[str, TaskSpec]
    shards: Sequence[ShardEntry]
    statistics: dict[str, Statistics] = field(default_factory=dict)
    """By modality; in the training split only."""
    vocabulary: dict[str, int] = field(default_factory=dict)
    """By modality of token ids: one more than the largest id in this split."""
    transcripts: int = 0
    """Samples whose transcript has a word; 0 also where the split was packed by a version that did not count them."""
    words: dict[str, list[str]] = field(default_factory=dict)
    """By modality of token ids: the words in the order of their ids, where the ids stand for words."""
    labels: dict[str, int] = field(default_factory=dict)
    """By task: samples that have its label; empty also where the split was packed by a version that did not count
    them."""
    segmented: int = 0
    """Samples whose transcript has words without white space, such as Chinese ones: its words are those of Unicode's
    word boundaries (UAX #29)."""
    split_by: SplitBy | None = None
    """`clip` if groups (videos) are in several splits of the corpus; None: groups are kept together, or by a version
    that did not state it."""
    hashes: HashesEntry | None = None
    """The file of sample hashes; None where the split was packed by a version that did not write it."""

    @classmethod
    def create(
        cls,
        *,
        corpus: str,
        split: str,
        seed: int,
        features: Mapping[str, FeatureSpec],
        tasks: Mapping[str, TaskSpec],
        shards: Sequence[ShardEntry],
        statistics: Mapping[str, Statistics] | None = None,
        vocabulary: Mapping[str, int] | None = None,
        transcripts: int = 0,
        segmented: int = 0,
        words: Mapping[str, Sequence[str]] | None = None,
        labels: Mapping[str, int] | None = None,
        split_by: SplitBy | None = None,
        hashes: HashesEntry | None = None,
    ) -> Manifest:
        """Create the manifest of shards that have been written."""
        return cls(
            corpus=corpus,
            split=split,
            samples=sum(shard.samples for shard in shards),
            seed=seed,
            features=dict(features),
            tasks=dict(tasks),
            shards=shards if isinstance(shards, ShardColumns) else list(shards),
            statistics=dict(statistics or {}),
            vocabulary=dict(vocabulary or {}),
            transcripts=transcripts,
            segmented=segmented,
            words={name: list(listed) for name, listed in (words or {}).items()},
            labels=dict(labels or {}),
            split_by=split_by,
            hashes=hashes,
        )

    @cached_property
    def id(self) -> str:
        """SHA-256 of everything except counts and sample hashes; checkpoints identify the data of their run by it.

        These follow from the shards, whose checksums are included, so data that was packed by a version without them
        keeps its id.
        """
        return _identity({name: value for name, value in self._content()[0].items() if name not in _COUNTED})

    @property
    def shard_samples(self) -> npt.NDArray[np.int64]:
        """[S] samples of each shard."""
        if isinstance(self.shards, ShardColumns):
            return self.shards.samples
        return np.array([shard.samples for shard in self.shards], np.int64)

    @property
    def total_bytes(self) -> int:
        """Bytes of all shards."""
        if isinstance(self.shards, ShardColumns):
            return int(self.shards.tar_bytes.sum())
        return sum(shard.bytes for shard in self.shards)

    @property
    def own_files(self) -> tuple[str, ...]:
        """Names of the files that the manifest is stored in, and of those that it names besides shards and indexes."""
        table = (TABLE_NAME,) if len(self.shards) > _LONGEST_LIST else ()
        return (MANIFEST_NAME, *table, *((self.hashes.name,) if self.hashes else ()))

    def save(self, split_url: str) -> None:
        """Write `manifest.json`, after the shards and indexes it names; many shards are listed in a table beside it."""
        content, table = self._content()
        if table is not None:
            storage.write_bytes(storage.join(split_url, TABLE_NAME), table)
        storage.write_json(storage.join(split_url, MANIFEST_NAME), {**content, "id": self.id})

    def _content(self) -> tuple[dict[str, Any], bytes | None]:
        """Encode as JSON values, and the table of shards if there is one."""
        table = None
        shards: Any
        if len(self.shards) <= _LONGEST_LIST:
            shards = [asdict(shard) for shard in self.shards]
        else:
            columns = self.shards if isinstance(self.shards, ShardColumns) else ShardColumns.of(self.shards)
            table = columns.to_bytes()
            shards = {"table": TABLE_NAME, "bytes": len(table), "sha256": hashlib.sha256(table).hexdigest()}
        others = asdict(replace(self, shards=[]))
        others["tasks"] = {name: task.to_json() for name, task in self.tasks.items()}
        content = {"format": FORMAT, "version": VERSION, **others, "shards": shards}
        # Counts of nothing are left out, as in manifests of versions that did not count.
        return {name: value for name, value in content.items() if value or name not in _OPTIONAL}, table

    @classmethod
    def load(cls, split_url: str) -> Manifest:
        """Read and check the manifest of a packed split.

        Raises:
            DataError: There is none, or it is empty, of another version, or was changed after it was written.
        """
        url = storage.join(split_url, MANIFEST_NAME)
        try:
            data = storage.read_bytes(url)
        except storage.NotFoundError as error:
            raise DataError(
                "no packed data here: there is no manifest.json",
                where=storage.display(split_url),
                remedy="name the directory of one split (such as .../train) that `ivr-dist pack` or `synth` wrote",
            ) from error
        return _parse(data, split_url, storage.display(url))

    @property
    def cautions(self) -> list[str]:
        """List what limits the results on this split, a sentence each."""
        if self.split_by != "clip":
            return []
        return [f"{self.corpus} is split by clip: videos are in several splits, so results say little about new videos"]

    def check_transcripts(self) -> None:
        """Check that there are transcripts.

        Raises:
            DataError: No sample has a transcript according to the manifest.
        """
        if not self.transcripts:
            raise DataError(
                "no sample of the split has a transcript, which model.text.pretrained reads",
                where=f"{self.corpus}, split {self.split}",
                remedy="pack the corpus with a card that maps its transcript (again, if an older version did)",
            )

    def unlabeled(self) -> list[str]:
        """List the tasks for which no sample has a label, as far as labels were counted."""
        return [task for task, count in self.labels.items() if not count]

    def check_shards(self, split_url: str, tars: bool = True) -> None:
        """Check that every shard and index exists with its size, without reading them.

        Of more than some thousand shards only a sample is checked: listing millions would delay the start of a run, and
        the reader reports missing shards anyway.

        Args:
            split_url: Directory or URL of the split.
            tars: Whether the tars are checked too, not only the indexes.

        Raises:
            DataError: A file is missing or has another size; names the first one and how many there are.
        """
        many = len(self.shards) > _LONGEST_LIST
        checked = self.shards[:: len(self.shards) // _CHECKED] if many else self.shards
        expected = {shard.name: shard.bytes for shard in checked} if tars else {}
        expected |= {shard.index.name: shard.index.bytes for shard in checked}
        sizes = storage.file_sizes(split_url, list(expected), listing=not many)
        wrong = [name for name, size in expected.items() if sizes.get(name) != size]
        if not wrong:
            return
        name, more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        state = f"has {sizes[name]} bytes instead of {expected[name]}" if name in sizes else "is missing"
        raise DataError(
            f"{name}{more} {state}",
            where=storage.display(split_url),
            remedy="copy the split again from where it was packed, or pack it again",
        )


def _identity(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _parse(text: bytes, split_url: str, where: str) -> Manifest:
    content = _json(text, where)
    if content.pop("format", None) != FORMAT:
        raise DataError("not a manifest of packed shards", where=where, remedy=_REMEDY)
    version = content.pop("version", None)
    if version != VERSION:
        raise DataError(
            f"the manifest has version {version}, this program reads {VERSION}",
            where=where,
            remedy="pack the split again, or use the version of ivr_dist that wrote it",
        )
    identity = content.pop("id", None)
    try:
        table = _table(content, split_url) if isinstance(content.get("shards"), dict) else None
        manifest = decode(Manifest, content)
        manifest = manifest if table is None else replace(manifest, shards=table)
        _check(manifest)
    except ValueError as error:
        raise DataError(f"the manifest cannot be read: {error}", where=where, remedy=_REMEDY) from error
    if manifest.samples == 0:
        raise DataError(
            f"the manifest is empty: 0 samples in {len(manifest.shards)} shards",
            where=where,
            remedy="pack a split that has samples",
        )
    if identity != manifest.id:
        raise DataError("the manifest was changed after it was written (its id differs)", where=where, remedy=_REMEDY)
    return manifest


def _json(text: bytes, where: str) -> dict[str, Any]:
    if not text.strip():
        raise DataError("the manifest is empty", where=where, remedy=_REMEDY)
    if (other := other_kind(text[:HEAD], "a manifest")) is not None:
        raise DataError(other[0], where=where, remedy=other[1])
    try:
        content = strict_json.loads(decode_text(text))
    except ValueError as error:
        raise DataError(f"the manifest is not JSON: {error}", where=where, remedy=_REMEDY) from error
    if not isinstance(content, dict):
        raise DataError("not a manifest of packed shards", where=where, remedy=_REMEDY)
    return content


def _table(content: dict[str, Any], split_url: str) -> ShardColumns:
    """Load the shards of a manifest that lists them in a separate file; leaves none in its content."""
    described = content["shards"]
    if set(described) != {"table", "bytes", "sha256"} or described["table"] != TABLE_NAME:
        raise ValueError("shards is neither a list nor the description of a table")
    content["shards"] = []
    url = storage.join(split_url, TABLE_NAME)
    data = storage.read_bytes(url)
    if hashlib.sha256(data).hexdigest() != described["sha256"]:
        raise CorruptDataError(
            "the table of shards does not belong to the manifest (its checksum differs)",
            where=storage.display(url),
            remedy="copy the split again from where it was packed, or pack it again",
        )
    return ShardColumns.from_bytes(data, storage.display(url))


def _check(manifest: Manifest) -> None:
    """Reject values that parse but contradict each other; the reader, the sample order and the model rely on them."""
    # A table has checked its names already.
    listed = [] if isinstance(manifest.shards, ShardColumns) else manifest.shards
    names = [name for shard in listed for name in (shard.name, shard.index.name)]
    for name in names:
        # Names are joined to the split's URL; one with a slash could lead out of it.
        if not storage.is_plain(name) or name.startswith("."):
            raise ValueError(f"{name!r} is not the name of a file beside the manifest")
    if len(set(names)) != len(names):
        raise ValueError("two shards or indexes have the same name")
    if isinstance(manifest.shards, ShardColumns):
        counts = manifest.shards.samples
        fewest, total = int(counts.min(initial=0)), int(counts.sum())
    else:
        # As Python integers, because JSON may contain any number.
        fewest = min((shard.samples for shard in listed), default=0)
        total = sum(shard.samples for shard in listed)
    if fewest < 0 or manifest.samples != total or manifest.samples > _MAX_SAMPLES:
        raise ValueError(f"samples is {manifest.samples}, which is not the sum over its shards")
    for name, feature in manifest.features.items():
        if name not in MODALITIES or not 1 <= feature.dim <= MAX_WIDTH:
            raise ValueError(f"features.{name} is not a modality with features")
        if not _holds_numbers(feature):
            raise ValueError(f"features.{name}.dtype is {_shown(feature.dtype)}, not a type of {feature.kind}")
    for name, statistics in manifest.statistics.items():
        described = manifest.features.get(name)
        if described is None or not len(statistics.mean) == len(statistics.std) == described.dim:
            raise ValueError(f"statistics.{name} does not match features.{name}")
        # Training divides by them in float32.
        sound = all(abs(mean) <= _LARGEST for mean in statistics.mean) and statistics.steps >= 0
        if not sound or not all(0 < deviation <= _LARGEST for deviation in statistics.std):
            raise ValueError(f"statistics.{name} is not of means and positive deviations in float32")
    for name, size in manifest.vocabulary.items():
        described = manifest.features.get(name)
        if described is None or described.kind != "tokens" or not 1 <= size <= 1 << 31:
            raise ValueError(f"vocabulary.{name} does not match features.{name}")
    for name, words in manifest.words.items():
        if len(words) < manifest.vocabulary.get(name, 1):
            raise ValueError(f"words.{name} are {len(words)}, fewer than the ids of vocabulary.{name}")
    for name, task in manifest.tasks.items():
        of_classes = task.type == "classification"
        if (task.classes is not None) != of_classes or not 1 <= (task.classes or 1) <= MAX_WIDTH:
            raise ValueError(f"tasks.{name}.classes is {_shown(task.classes)} of a {task.type}")
        if task.names is not None and not len(set(task.names)) == len(task.names) == task.classes:
            raise ValueError(f"tasks.{name}.names are not {_shown(task.classes)} different names of classes")
        if task.ordered and not of_classes:
            raise ValueError(f"tasks.{name}.ordered is of classes, in a {task.type}")
    for name, count in manifest.labels.items():
        if name not in manifest.tasks or not 0 <= count <= manifest.samples:
            raise ValueError(f"labels.{name} is {count} of {manifest.samples} samples, or belongs to no task")
    if manifest.hashes is not None and (
        not storage.is_plain(manifest.hashes.name) or not 0 < manifest.hashes.directory_bytes <= manifest.hashes.bytes
    ):
        raise ValueError("hashes does not describe a file beside the manifest")
    if not 0 <= manifest.segmented <= manifest.samples:
        raise ValueError(f"segmented is {manifest.segmented} of {manifest.samples} samples")
    if not 0 <= manifest.transcripts <= manifest.samples:
        raise ValueError(f"transcripts is {manifest.transcripts} of {manifest.samples} samples")


def _holds_numbers(feature: FeatureSpec) -> bool:
    """Whether its type is one that arrays of its kind are stored in, by its canonical name in numpy."""
    if _DTYPE.fullmatch(feature.dtype) is None:
        # numpy would also accept records, and aliases of the same types.
        return False
    try:
        dtype = np.dtype(feature.dtype)
    except TypeError:
        return False
    return str(dtype) == feature.dtype and dtype.kind in ("iu" if feature.kind == "tokens" else "fiu")


def _shown(value: Any) -> str:
    return shorten(json.dumps(value), 60)
