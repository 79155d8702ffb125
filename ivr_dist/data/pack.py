"""Packing: a corpus becomes shards, their indexes and a manifest for each split.

The samples of a split are put in a random order once, by a hash of seed and id, and written to USTAR tars. The same
corpus, seed and shard size give the same bytes on any machine. Shards and their indexes are written first, the manifest
last: what has a manifest is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xxhash

from ivr_dist import storage
from ivr_dist.corpora.source import Dropped, Prepared, SampleRef, Source, SourceSample, dropped_by, prepare
from ivr_dist.data.index import build_index
from ivr_dist.data.manifest import MANIFEST_NAME, FeatureSpec, IndexEntry, Manifest, ShardEntry, Statistics
from ivr_dist.data.statistics import RunningStatistics
from ivr_dist.data.tar import BLOCK, TarWriter
from ivr_dist.errors import ConfigError, DataError

DEFAULT_SHARD_BYTES = 64 << 20

Progress = Callable[[str, int, int], None]
"""Called with the split, the samples done and the samples in all."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_MAX_KEY = 80
_TRAIN = "train"


@dataclass(frozen=True)
class PackOptions:
    """How shards are cut."""

    shard_samples: int | None = None
    """Most samples of a shard; None: no limit but the bytes."""
    shard_bytes: int = DEFAULT_SHARD_BYTES
    """A shard is closed once it has this many bytes."""
    seed: int = 0
    """Seed of the order in which samples are packed."""
    overwrite: bool = False
    """Replace splits that are packed already from other data or with other options."""

    def __post_init__(self) -> None:
        if self.shard_bytes < 1 or (self.shard_samples is not None and self.shard_samples < 1):
            raise ConfigError("a shard must hold 1 sample and 1 byte or more", remedy="choose a larger shard size")
        if not 0 <= self.seed < 2**64:
            raise ConfigError(f"the packing seed is {self.seed}", remedy="choose 0 or more, below 2^64")


@dataclass(frozen=True)
class SplitSummary:
    """What became of one split."""

    split: str
    url: str
    status: Literal["packed", "already packed"]
    manifest_id: str
    samples: int
    shards: int
    bytes: int
    """Of all shards, without indexes and manifest."""
    missing: Mapping[str, int]
    """By modality, where there are any: samples that do not have it."""
    replaced: Mapping[str, int]
    """By modality, where there are any: values that were not finite and are 0 in the shards."""
    empty: int
    """Samples without any modality; they are packed."""
    unlabelled: Mapping[str, int]
    """By task, where there are any: samples without its label; they are packed."""

    @property
    def warnings(self) -> list[str]:
        """What a user should look at, a sentence each."""
        found = [f"{count} non-finite values of {name} replaced by 0" for name, count in self.replaced.items()]
        found += [f"{count} samples have no {name}" for name, count in self.missing.items()]
        found += [f"{count} samples have no label {name}" for name, count in self.unlabelled.items()]
        return found + ([f"{self.empty} samples have no modality at all"] if self.empty else [])


@dataclass(frozen=True)
class PackSummary:
    """What became of a corpus."""

    corpus: str
    splits: tuple[SplitSummary, ...]
    dropped: tuple[Dropped, ...] = ()
    """Samples of the files that are in no split, with the reason."""

    @property
    def warnings(self) -> list[str]:
        """What was dropped, a sentence for each reason with the ids."""
        ids: dict[str, list[str]] = {}
        for sample in self.dropped:
            ids.setdefault(sample.reason, []).append(sample.id)
        return [f"{len(found)} dropped, {reason}: {', '.join(found)}" for reason, found in ids.items()]


def pack(source: Source, url: str, options: PackOptions | None = None, progress: Progress | None = None) -> PackSummary:
    """Pack every split of a corpus into `url`/SPLIT.

    A split that is there already with the same content is left as it is; nothing is written before every split that
    is there has been compared.

    Args:
        source: The corpus.
        url: Directory or fsspec URL.
        options: How to cut shards.
        progress: Called now and then.

    Raises:
        DataError: A sample does not fit the corpus' description, or other data is packed there already.
        StorageError: Reading or writing failed.
    """
    packer = _Packer(source, url, options or PackOptions(), progress or _silent)
    splits = [split for split, refs in source.splits().items() if refs]
    if not splits:
        raise DataError("the corpus has no samples", where=f"corpus {source.corpus}")
    packer.check_place(splits)
    present = {split: packer.present(split) for split in splits}
    written = tuple(present[split] or packer.write(split) for split in splits)
    return PackSummary(source.corpus, written, tuple(dropped_by(source)))


@dataclass(frozen=True)
class _Encoded:
    """A sample as tar members."""

    members: list[tuple[str, bytes]]
    """Name and content, in the order in which they are written."""

    @property
    def size(self) -> int:
        """Bytes in a tar: a header block and the content in whole blocks, for each member."""
        return sum(BLOCK + -(-len(content) // BLOCK) * BLOCK for _, content in self.members)


@dataclass
class _Tally:
    """What was seen while a split was encoded."""

    missing: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    unlabelled: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    statistics: dict[str, RunningStatistics] = field(default_factory=dict)
    vocabulary: Counter[str] = field(default_factory=Counter)
    transcripts: int = 0

    def add(self, sample: SourceSample, prepared: Prepared, features: Mapping[str, FeatureSpec]) -> None:
        self.missing.update(name for name in features if name not in prepared.arrays)
        self.replaced.update(prepared.replaced)
        self.unlabelled.update(task for task, label in sample.labels.items() if label is None)
        self.empty += not prepared.arrays
        self.transcripts += bool(sample.transcript.split())
        for name, array in prepared.arrays.items():
            if features[name].kind == "tokens":
                self.vocabulary[name] = max(self.vocabulary[name], int(array.max()) + 1)
        for name, running in self.statistics.items():
            if name in prepared.arrays:
                running.add(prepared.arrays[name][prepared.clean[name]])


class _Packer:
    def __init__(self, source: Source, url: str, options: PackOptions, progress: Progress) -> None:
        self._source = source
        self._url = url
        self._options = options
        self._progress = progress
        self._replaced_files: dict[str, list[str]] = {}

    def check_place(self, splits: Sequence[str]) -> None:
        """Refuse a place that holds splits of another corpus: they would be taken for this one's."""
        for name in storage.list_dir(self._url):
            if name not in splits and storage.exists(storage.join(self._url, name, MANIFEST_NAME)):
                raise DataError(
                    f"a packed split {name} is there, which corpus {self._source.corpus} does not have",
                    where=storage.display(self._url),
                    remedy="pack to another place, or delete it",
                )

    def present(self, split: str) -> SplitSummary | None:
        """The summary of a split that is packed already with this content; None if it has to be written."""
        place = storage.join(self._url, split)
        if not storage.exists(storage.join(place, MANIFEST_NAME)):
            return None
        try:
            found = Manifest.load(place)
        except DataError:
            if not self._options.overwrite:
                raise
            return None
        manifest, tally = self._build(split, _discard)
        if manifest.id != found.id:
            if self._options.overwrite:
                self._replaced_files[split] = [name for s in found.shards for name in (s.name, s.index.name)]
                return None
            raise DataError(
                "another packing is there already (its data, seed or shard size differs)",
                where=storage.display(place),
                remedy="pack to another place, or overwrite it with --overwrite",
            )
        if manifest != found:
            # The same data, packed before something was counted that the manifest holds now.
            return None
        try:
            found.check_shards(place)
        except DataError:
            return None
        return self._summary(split, "already packed", manifest, tally)

    def write(self, split: str) -> SplitSummary:
        """Write a split; the files of an earlier packing, whole or broken off, go first."""
        place = storage.join(self._url, split)
        ours = re.compile(re.escape(self._name(split)) + r"-\d{6}\.(tar|idx)")
        leftover = [name for name in storage.list_dir(place) if ours.fullmatch(name)]
        # The manifest before the files that it promises.
        for name in (MANIFEST_NAME, *self._replaced_files.get(split, ()), *leftover):
            storage.delete_tree(storage.join(place, name))
        manifest, tally = self._build(split, lambda name, data: storage.write_bytes(storage.join(place, name), data))
        manifest.save(place)
        return self._summary(split, "packed", manifest, tally)

    def _name(self, split: str) -> str:
        return f"{self._source.corpus}-{split}"

    def _build(self, split: str, write: Callable[[str, bytes], None]) -> tuple[Manifest, _Tally]:
        """Encode a split, hand each shard and index to `write`, and return the manifest that describes them."""
        features = self._source.features
        tally = _Tally()
        if split == _TRAIN:
            dims = {name: spec.dim for name, spec in features.items() if spec.kind == "features"}
            tally.statistics = {name: RunningStatistics(dim) for name, dim in dims.items()}
        shards: list[ShardEntry] = []
        for samples in _cut(self._encoded(split, tally), self._options):
            name = f"{self._name(split)}-{len(shards):06d}"
            tar = _tar(samples)
            index = build_index(tar).to_bytes()
            write(f"{name}.tar", tar)
            write(f"{name}.idx", index)
            shards.append(
                ShardEntry(
                    name=f"{name}.tar",
                    samples=len(samples),
                    bytes=len(tar),
                    sha256=hashlib.sha256(tar).hexdigest(),
                    index=IndexEntry(name=f"{name}.idx", bytes=len(index), sha256=hashlib.sha256(index).hexdigest()),
                )
            )
        manifest = Manifest.create(
            corpus=self._source.corpus,
            split=split,
            seed=self._options.seed,
            features=features,
            tasks=self._source.tasks,
            shards=shards,
            statistics={
                name: Statistics(mean=found.mean.tolist(), std=found.deviation().tolist(), steps=found.steps)
                for name, found in tally.statistics.items()
            },
            vocabulary=tally.vocabulary,
            transcripts=tally.transcripts,
        )
        return manifest, tally

    def _encoded(self, split: str, tally: _Tally) -> Iterator[_Encoded]:
        refs = shuffled(self._source.splits()[split], self._options.seed)
        for done, ref in enumerate(refs, start=1):
            sample = self._source.load(split, ref)
            prepared = prepare(sample, self._source.features)
            tally.add(sample, prepared, self._source.features)
            yield encode(sample, prepared, self._source.corpus)
            self._progress(split, done, len(refs))

    def _summary(
        self, split: str, status: Literal["packed", "already packed"], manifest: Manifest, tally: _Tally
    ) -> SplitSummary:
        return SplitSummary(
            split=split,
            url=storage.join(self._url, split),
            status=status,
            manifest_id=manifest.id,
            samples=manifest.samples,
            shards=len(manifest.shards),
            bytes=sum(shard.bytes for shard in manifest.shards),
            missing={name: tally.missing[name] for name in manifest.features if tally.missing[name]},
            replaced={name: tally.replaced[name] for name in manifest.features if tally.replaced[name]},
            empty=tally.empty,
            unlabelled={name: tally.unlabelled[name] for name in manifest.tasks if tally.unlabelled[name]},
        )


def shuffled(refs: Sequence[SampleRef], seed: int) -> list[SampleRef]:
    """Samples in packing order: by xxh3-64 of the id, whatever order the corpus lists them in."""
    return sorted(refs, key=lambda ref: (xxhash.xxh3_64_intdigest(_utf8(ref.id), seed), ref.id))


def tar_key(id_: str) -> str:
    """A sample id as the name of tar members: letters, digits, underscore and minus, at most 80.

    WebDataset cuts names at the first dot, and USTAR has room for 100 bytes. An id that is not such a name gets a
    hash of itself at its end, so that two ids do not become one.
    """
    safe = _UNSAFE.sub("_", id_)
    # Members named __...__ are meta data of a tar, which readers pass over.
    meta = id_.startswith("__") and id_.endswith("__")
    if safe == id_ and len(id_) <= _MAX_KEY and not meta:
        return id_
    return f"{safe[:60]}-{xxhash.xxh3_64_hexdigest(_utf8(id_))}"


def _utf8(id_: str) -> bytes:
    # JSON can smuggle half of a surrogate pair into an id; it must not stop the packing.
    return id_.encode("utf-8", "surrogatepass")


def encode(sample: SourceSample, prepared: Prepared, corpus: str) -> _Encoded:
    """A sample as tar members: KEY.json and KEY.MODALITY.npy, sorted by suffix."""
    key = tar_key(sample.id)
    about = {
        "id": sample.id,
        "corpus": corpus,
        "split": sample.split,
        "labels": dict(sample.labels),
        "transcript": sample.transcript,
        "provenance": dict(sample.provenance),
    }
    contents = {f"{name}.npy": _npy(array) for name, array in prepared.arrays.items()}
    contents["json"] = json.dumps(about, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return _Encoded([(f"{key}.{suffix}", contents[suffix]) for suffix in sorted(contents)])


def _cut(samples: Iterator[_Encoded], options: PackOptions) -> Iterator[list[_Encoded]]:
    """Samples by shard; one shard is in memory at a time."""
    shard: list[_Encoded] = []
    size = 0
    for sample in samples:
        shard.append(sample)
        size += sample.size
        if len(shard) == options.shard_samples or size >= options.shard_bytes:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _tar(samples: Sequence[_Encoded]) -> bytes:
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for sample in samples:
        for name, content in sample.members:
            writer.add(name, content)
    writer.close()
    return buffer.getvalue()


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _discard(name: str, data: bytes) -> None:
    """Write nothing: the content is only compared."""


def _silent(split: str, done: int, total: int) -> None:
    """Report nothing."""
