"""`manifest.json`: what a packed split holds, from which a whole epoch is planned without opening a shard.

It is written last, so a manifest that can be read stands for shards that are all there.
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
from ivr_dist.shards.specs import FeatureSpec, Statistics, TaskSpec

__all__ = ["IndexEntry", "Manifest", "ShardEntry"]

FORMAT = "ivr-shards"
VERSION = 1
MANIFEST_NAME = "manifest.json"
TABLE_NAME = "manifest.shards"

_REMEDY = "pack the split again"
_COUNTED = ("vocabulary", "transcripts", "labels")
_MAX_SAMPLES = 1 << 62
_LARGEST = float(np.finfo(np.float32).max)
MOST = 1 << 24
"""Features of a step, and classes."""
_DTYPE = re.compile(r"[a-z]{1,8}\d{1,3}|[<>][a-z]\d{1,2}")
_LONGEST_LIST = 4096
"""Shards up to which the manifest lists them itself, and all files are looked for before a run."""
_LOOKED_FOR = 64
"""Shards that are looked for where there are more: spread over all of them."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One split of one corpus."""

    corpus: str
    split: str
    samples: int
    seed: int
    """Seed of the shuffle it was packed with."""
    features: dict[str, FeatureSpec]
    """By modality, in the order of MODALITIES."""
    tasks: dict[str, TaskSpec]
    shards: Sequence[ShardEntry]
    statistics: dict[str, Statistics] = field(default_factory=dict)
    """By modality; in the training split only."""
    vocabulary: dict[str, int] = field(default_factory=dict)
    """By modality of token ids: one more than the largest id in this split."""
    transcripts: int = 0
    """Samples whose transcript has a word; 0 also where the split was packed before this was counted."""
    labels: dict[str, int] = field(default_factory=dict)
    """By task: samples that have its label; empty also where the split was packed before this was counted."""

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
        labels: Mapping[str, int] | None = None,
    ) -> Manifest:
        """A manifest of shards that have been written."""
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
            labels=dict(labels or {}),
        )

    @cached_property
    def id(self) -> str:
        """SHA-256 of everything but what was counted; checkpoints name the data they were trained on by it.

        The counts follow from the shards, whose hashes are in it: data that was packed before something was counted
        stays the same data.
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
        """Of all shards."""
        if isinstance(self.shards, ShardColumns):
            return int(self.shards.tar_bytes.sum())
        return sum(shard.bytes for shard in self.shards)

    @property
    def own_files(self) -> tuple[str, ...]:
        """The files that it is in."""
        return (MANIFEST_NAME, TABLE_NAME) if len(self.shards) > _LONGEST_LIST else (MANIFEST_NAME,)

    def save(self, split_url: str) -> None:
        """Write `manifest.json`, after the shards and indexes it names; of many shards there is a table beside it."""
        content, table = self._content()
        if table is not None:
            storage.write_bytes(storage.join(split_url, TABLE_NAME), table)
        storage.write_json(storage.join(split_url, MANIFEST_NAME), {**content, "id": self.id})

    def _content(self) -> tuple[dict[str, Any], bytes | None]:
        """What the JSON holds, and the table of shards if there is one."""
        table = None
        shards: Any
        if len(self.shards) <= _LONGEST_LIST:
            shards = [asdict(shard) for shard in self.shards]
        else:
            columns = self.shards if isinstance(self.shards, ShardColumns) else ShardColumns.of(self.shards)
            table = columns.to_bytes()
            shards = {"table": TABLE_NAME, "bytes": len(table), "sha256": hashlib.sha256(table).hexdigest()}
        others = asdict(replace(self, shards=[]))
        content = {"format": FORMAT, "version": VERSION, **others, "shards": shards}
        # Absent where there is nothing to count, as in manifests that were written before they were counted.
        return {name: value for name, value in content.items() if value or name not in _COUNTED}, table

    @classmethod
    def load(cls, split_url: str) -> Manifest:
        """Read and check the manifest of a packed split.

        Raises:
            DataError: There is none, it is empty, of another version, or not what it was when it was written.
        """
        url = storage.join(split_url, MANIFEST_NAME)
        try:
            data = storage.read_bytes(url)
        except storage.NotFoundError as error:
            raise DataError(
                "no packed data here: there is no manifest.json",
                where=storage.display(split_url),
                remedy="give the directory of one split (such as .../train) that `ivr-dist pack` or `synth` wrote",
            ) from error
        return _parse(data, split_url, storage.display(url))

    def check_transcripts(self) -> None:
        """Make sure that there is a text to read.

        Raises:
            DataError: No sample has a transcript, as far as the manifest knows.
        """
        if not self.transcripts:
            raise DataError(
                "no sample of the split has a transcript, which model.text.pretrained reads",
                where=f"{self.corpus}, split {self.split}",
                remedy="pack the corpus with a card that maps its transcript (again, if an older version did)",
            )

    def unlabelled(self) -> list[str]:
        """Tasks of which no sample has a label, as far as it was counted."""
        return [task for task, count in self.labels.items() if not count]

    def check_shards(self, split_url: str, tars: bool = True) -> None:
        """Make sure that every shard and index is there with its size, without reading them.

        Of more than some thousand shards only some are looked for: listing millions takes longer than a run should take
        to start, and the reader names whatever is missing.

        Args:
            split_url: Directory or URL of the split.
            tars: Whether the tars are there too; else the indexes alone are looked for.

        Raises:
            DataError: Names the first one that is not, and how many there are.
        """
        many = len(self.shards) > _LONGEST_LIST
        looked_for = self.shards[:: len(self.shards) // _LOOKED_FOR] if many else self.shards
        expected = {shard.name: shard.bytes for shard in looked_for} if tars else {}
        expected |= {shard.index.name: shard.index.bytes for shard in looked_for}
        found = storage.file_sizes(split_url, list(expected), listing=not many)
        wrong = [name for name, size in expected.items() if found.get(name) != size]
        if not wrong:
            return
        name, more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        state = f"has {found[name]} bytes instead of {expected[name]}" if name in found else "is missing"
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
    """The shards of a manifest that has them in a file of their own; leaves none in its content."""
    told = content["shards"]
    if set(told) != {"table", "bytes", "sha256"} or told["table"] != TABLE_NAME:
        raise ValueError("shards is neither a list nor the description of a table")
    content["shards"] = []
    url = storage.join(split_url, TABLE_NAME)
    data = storage.read_bytes(url)
    if hashlib.sha256(data).hexdigest() != told["sha256"]:
        raise CorruptDataError(
            "the table of shards is not the one that the manifest was written with",
            where=storage.display(url),
            remedy="copy the split again from where it was packed, or pack it again",
        )
    return ShardColumns.from_bytes(data, storage.display(url))


def _check(manifest: Manifest) -> None:
    """Refuse what is well-formed but cannot be: the reader, the order and the model rely on it."""
    # A table has checked its names itself.
    listed = [] if isinstance(manifest.shards, ShardColumns) else manifest.shards
    names = [name for shard in listed for name in (shard.name, shard.index.name)]
    for name in names:
        # Names are joined to the split's place; one with a slash could lead out of it.
        if not storage.is_plain(name) or name.startswith("."):
            raise ValueError(f"{name!r} is not the name of a file beside the manifest")
    if len(set(names)) != len(names):
        raise ValueError("two shards or indexes have one name")
    if isinstance(manifest.shards, ShardColumns):
        counts = manifest.shards.samples
        fewest, total = int(counts.min(initial=0)), int(counts.sum())
    else:
        # As Python's integers: any number can stand in JSON.
        fewest = min((shard.samples for shard in listed), default=0)
        total = sum(shard.samples for shard in listed)
    if fewest < 0 or manifest.samples != total or manifest.samples > _MAX_SAMPLES:
        raise ValueError(f"samples is {manifest.samples}, which is not the sum over its shards")
    for name, feature in manifest.features.items():
        if name not in MODALITIES or not 1 <= feature.dim <= MOST:
            raise ValueError(f"features.{name} is not a modality with features")
        if not _holds_numbers(feature):
            raise ValueError(f"features.{name}.dtype is {_shown(feature.dtype)}, not a type of {feature.kind}")
    for name, statistics in manifest.statistics.items():
        described = manifest.features.get(name)
        if described is None or not len(statistics.mean) == len(statistics.std) == described.dim:
            raise ValueError(f"statistics.{name} does not fit features.{name}")
        # Training divides by them in float32.
        sound = all(abs(mean) <= _LARGEST for mean in statistics.mean) and statistics.steps >= 0
        if not sound or not all(0 < deviation <= _LARGEST for deviation in statistics.std):
            raise ValueError(f"statistics.{name} is not of means and positive deviations in float32")
    for name, size in manifest.vocabulary.items():
        described = manifest.features.get(name)
        if described is None or described.kind != "tokens" or not 1 <= size <= 1 << 31:
            raise ValueError(f"vocabulary.{name} does not fit features.{name}")
    for name, task in manifest.tasks.items():
        of_classes = task.type == "classification"
        if (task.classes is not None) != of_classes or not 1 <= (task.classes or 1) <= MOST:
            raise ValueError(f"tasks.{name}.classes is {_shown(task.classes)} of a {task.type}")
    for name, count in manifest.labels.items():
        if name not in manifest.tasks or not 0 <= count <= manifest.samples:
            raise ValueError(f"labels.{name} is {count} of {manifest.samples} samples, or belongs to no task")
    if not 0 <= manifest.transcripts <= manifest.samples:
        raise ValueError(f"transcripts is {manifest.transcripts} of {manifest.samples} samples")


def _holds_numbers(feature: FeatureSpec) -> bool:
    """Whether its type is one that arrays of its kind are stored in, by numpy's own name for it."""
    if _DTYPE.fullmatch(feature.dtype) is None:
        # numpy would also take records, and names of its own for the same types.
        return False
    try:
        dtype = np.dtype(feature.dtype)
    except TypeError:
        return False
    return str(dtype) == feature.dtype and dtype.kind in ("iu" if feature.kind == "tokens" else "fiu")


def _shown(value: Any) -> str:
    return shorten(json.dumps(value), 60)
