"""Index existing WebDataset tars in place: an index beside each and one manifest, so that training can read them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.corpora.readers.texts import PLACEHOLDERS
from ivr_dist.errors import DataError
from ivr_dist.packing.worker_pool import InlinePool, OnProgress, WorkerPool
from ivr_dist.planning.label_check import label_notes
from ivr_dist.shards import npy
from ivr_dist.shards.decode import RawSample, decode_with_json
from ivr_dist.shards.index import build_index
from ivr_dist.shards.index import load as load_index
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.running_statistics import RunningStatistics
from ivr_dist.shards.sample_hashes import KINDS, HashRows, hashes_of
from ivr_dist.shards.shard_table import IndexEntry, ShardEntry
from ivr_dist.shards.specs import FeatureKind, FeatureSpec, Scale, Statistics, TaskSpec
from ivr_dist.shards.tar import Stream

_REMEDY = "give the tars the layout of shards/README.md, or pack the corpus with `ivr-dist pack`"
_TAR = re.compile(r"[^.].*\.tar")
_COMPRESSIONS = "gz|gzip|z|bz2?|xz|lzma|lz|lz4|lzo|zst|zstd|br|7z|zip|rar"
_UNREADABLE_TAR = re.compile(
    rf"(?P<stem>[^.].*?)(\.tar|\.tar\.({_COMPRESSIONS})|\.t(gz|az|bz2?|b2|xz|lz|zst)|\.tar\.(part|partial|tmp|crdownload))",
    re.IGNORECASE,
)
"""Names of tars that cannot be read as they are: compressed, incomplete, or in capitals."""
_MAX_SHOWN = 5
_MAX_TOKEN = 2**31 - 1
_TRAIN = "train"

_BYTES_PER_S = 100e6
"""Approximate throughput of one indexing process."""


@dataclass
class _Contents:
    """Contents of the samples of a shard, then of all shards: features, tasks, labels, transcripts."""

    features: dict[str, FeatureSpec] = field(default_factory=dict)
    statistics: dict[str, RunningStatistics] = field(default_factory=dict)
    tasks: set[str] = field(default_factory=set)
    vocabulary: dict[str, int] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    """By task: samples that have its label."""
    transcripts: int = 0
    placeholders: int = 0
    """Samples whose transcript is a placeholder for a missing value."""
    rounded: Counter[str] = field(default_factory=Counter)
    """By modality: whole numbers that float32, in which training computes, does not hold to the last digit."""

    def add(self, sample: RawSample) -> None:
        """Add a sample."""
        for modality, array in sample.arrays.items():
            self._add_array(modality, array, sample.where)
        self.tasks.update(sample.labels)
        self.labels.update(task for task, label in sample.labels.items() if label is not None)
        self.transcripts += bool(sample.words)
        self.placeholders += isinstance(sample.transcript, str) and sample.transcript in PLACEHOLDERS

    def _add_array(self, modality: str, array: npt.NDArray[np.generic], where: str) -> None:
        kind: FeatureKind = "tokens" if array.ndim == 1 and array.dtype.kind in "iu" else "features"
        if kind == "features" and (array.ndim != 2 or array.shape[1] == 0 or not _is_number(array.dtype)):
            raise DataError(
                f"{modality} is {array.dtype} {list(array.shape)}, not numbers [steps, features]",
                where=where,
                remedy=_REMEDY,
            )
        dim = 1 if kind == "tokens" else array.shape[1]
        self._add_spec(modality, FeatureSpec(set=f"{modality}{dim}", dim=dim, dtype=str(array.dtype), kind=kind), where)
        if kind == "tokens" and len(array):
            self._add_tokens(modality, array, where)
        if kind == "features":
            with np.errstate(over="ignore"):
                finite = np.isfinite(array.astype(np.float32, copy=False)).all()
            if not finite:
                raise DataError(
                    f"{modality} has values that are not finite float32 numbers",
                    where=where,
                    remedy="replace them, or pack the corpus with `ivr-dist pack`, which replaces them",
                )
            self.rounded[modality] += npy.count_rounded(array, "float32")
            self.statistics.setdefault(modality, RunningStatistics(dim)).add(array)

    def _add_spec(self, modality: str, spec: FeatureSpec, where: str) -> None:
        first = self.features.setdefault(modality, spec)
        if first != spec:
            raise DataError(
                f"{modality} is {spec.dtype} of width {spec.dim} here and {first.dtype} of width {first.dim} before",
                where=where,
                remedy="index only tars of one feature set together",
            )

    def notes(self) -> list[str]:
        """List what the user should check, a sentence each."""
        sentences = [
            f"{count} whole numbers of {name} are rounded in training, which computes in float32"
            for name, count in self.rounded.items()
            if count
        ]
        if self.placeholders:
            sentences.append(f"{self.placeholders} samples have the transcript nan, None or the like: a missing value?")
        return sentences

    def merge(self, shard: _Contents, where: str) -> None:
        """Add the samples of the next shard."""
        for modality, spec in shard.features.items():
            self._add_spec(modality, spec, where)
        for modality, running in shard.statistics.items():
            self.statistics.setdefault(modality, RunningStatistics(len(running.mean))).merge(running)
        for modality, size in shard.vocabulary.items():
            self.vocabulary[modality] = max(self.vocabulary.get(modality, 0), size)
        self.tasks |= shard.tasks
        self.labels.update(shard.labels)
        self.transcripts += shard.transcripts
        self.placeholders += shard.placeholders
        self.rounded.update(shard.rounded)

    def _add_tokens(self, modality: str, ids: npt.NDArray[Any], where: str) -> None:
        if int(ids.min()) < 0:
            raise DataError(f"{modality} has a token id below 0", where=where, remedy=_REMEDY)
        if int(ids.max()) > _MAX_TOKEN:
            raise DataError(f"{modality} has a token id of more than 32 bits", where=where, remedy=_REMEDY)
        self.vocabulary[modality] = max(self.vocabulary.get(modality, 0), int(ids.max()) + 1)


def index_tars(
    split_url: str,
    *,
    corpus: str,
    split: str,
    scale: Scale = "none",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    pool: WorkerPool | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Manifest:
    """Index the tars of a directory in place: NAME.idx beside each NAME.tar, then manifest.json.

    Every tar is read once, a few MiB at a time.

    Args:
        split_url: Directory or URL that holds the tars of one split, to which the indexes are written.
        corpus: Name of the corpus, in metrics and logs.
        split: Name of the split; statistics of features are computed for `train` only.
        scale: Metric conventions of the labels, all of which are regarded as regressions.
        on_progress: Called with the tars done and the total number of tars.
        pool: Indexes several tars at a time; by default this process indexes them one after the other.
        on_note: Called with notes about skipped files and missing labels, a sentence each.

    Raises:
        DataError: There is no tar, a tar does not have the layout of samples, two samples have the same id, or tars
            would be left out, such as compressed ones.
        CorruptDataError: A tar is damaged.
    """
    listed = storage.list_dir(split_url)
    names = [name for name in listed if _TAR.fullmatch(name)]
    _refuse_left_out(split_url, listed, names, on_note)
    if not names:
        raise DataError(
            "no tar files here", where=storage.display(split_url), remedy="name the directory that holds them"
        )
    for name in names:
        if not storage.is_plain(name):
            raise DataError(
                f"{name!r} cannot be the name of a shard",
                where=storage.display(split_url),
                remedy="rename it, without backslashes and control characters",
            )
    results: dict[int, _Indexed] = {}

    def on_result(number: int, result: _Indexed) -> None:
        results[number] = result
        on_progress(len(results), len(names))

    seconds = sum(storage.file_sizes(split_url, names).values()) / _BYTES_PER_S
    run = InlinePool().run if pool is None or seconds < pool.start_s else pool.run
    run(partial(_index_one, storage.absolute(split_url), corpus), names, lambda number, done: None, on_result)
    shards, contents = [], _Contents()
    for number, name in enumerate(names):
        entry, part, _ = results[number]
        shards.append(entry)
        contents.merge(part, name)
    parts = [results[number][2] for number in range(len(names))]
    _refuse_repeated_ids(split_url, shards, parts)
    if not contents.features:
        raise DataError(
            "no sample has a member KEY.text.npy, KEY.audio.npy or KEY.vision.npy",
            where=storage.display(split_url),
            remedy=_REMEDY,
        )
    hashes = HashRows.of(np.concatenate(parts))
    manifest = Manifest.create(
        corpus=corpus,
        split=split,
        seed=0,
        features={name: contents.features[name] for name in MODALITIES if name in contents.features},
        # Without bounds: observed ones would differ between splits, which must have the same tasks.
        tasks={task: TaskSpec(type="regression", scale=scale) for task in sorted(contents.tasks)},
        shards=shards,
        statistics={
            name: Statistics(mean=running.mean.tolist(), std=running.deviation().tolist(), steps=running.steps)
            for name, running in contents.statistics.items()
            if split == _TRAIN
        },
        vocabulary=contents.vocabulary,
        transcripts=contents.transcripts,
        labels={task: contents.labels[task] for task in sorted(contents.tasks)},
        hashes=hashes.entry,
    )
    hashes.save(split_url)
    manifest.save(split_url)
    for note in (*contents.notes(), *label_notes({split: manifest})):
        on_note(note)
    return manifest


def _is_number(dtype: np.dtype[Any]) -> bool:
    """Whether features may be of this type; types longer than 8 bytes differ between machines."""
    return dtype.kind in "fiu" and dtype.itemsize <= 8


def _refuse_left_out(
    split_url: str, listed: Sequence[str], names: Sequence[str], on_note: Callable[[str], None]
) -> None:
    """Refuse a folder in which tars would be left out; those that are also there as NAME.tar are only noted."""
    below = [name for name in storage.list_files(split_url) if "/" in name] if storage.can_list(split_url) else []
    nested = [name for name in below if _TAR.fullmatch(name.rpartition("/")[2]) and not name.startswith(".")]
    others = [
        (name, match["stem"]) for name in listed if name not in names and (match := _UNREADABLE_TAR.fullmatch(name))
    ]
    left_out = [name for name, stem in others if f"{stem}.tar" not in names]
    if left_out:
        raise DataError(
            f"tars would be left out because they are compressed, incomplete or not named NAME.tar: {_some(left_out)}",
            where=storage.display(split_url),
            remedy="unpack them and name them NAME.tar, or move them elsewhere",
        )
    if others:
        on_note(f"skipped, because they exist as .tar as well: {_some([name for name, _ in others])}")
    if nested and names:
        on_note(f"skipped, because they are in folders below {storage.display(split_url)}: {_some(nested)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_SHOWN]) + (f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else "")


_Indexed = tuple[ShardEntry, _Contents, npt.NDArray[np.uint64]]
"""A shard, the contents of its samples, and [n, 3] hashes of id, group and text of each."""


def _refuse_repeated_ids(
    split_url: str, shards: Sequence[ShardEntry], hashes: Sequence[npt.NDArray[np.uint64]]
) -> None:
    """Refuse two samples with the same id, which would count as one.

    Raises:
        DataError: There are two.
    """
    distinct, counts = np.unique(np.concatenate(hashes)[:, KINDS.index("id")], return_counts=True)
    repeated = distinct[counts > 1]
    if not repeated.size:
        return
    shard_of: dict[str, str] = {}
    for shard, own in zip(shards, hashes, strict=True):
        if not np.isin(own[:, KINDS.index("id")], repeated).any():
            continue
        for id_ in load_index(storage.join(split_url, shard.index.name)).names:
            if id_ in shard_of:
                both = f"{shard_of[id_]} and {shard.name}" if shard_of[id_] != shard.name else f"{shard.name} twice"
                raise DataError(
                    f"sample id {id_} is in {both}",
                    where=storage.display(split_url),
                    remedy='give every sample a unique "id" in its JSON; the default is its KEY',
                )
            shard_of[id_] = shard.name


def _index_one(split_url: str, corpus: str, name: str, on_progress: OnProgress) -> _Indexed:
    url = storage.join(split_url, name)
    stream = Stream(partial(storage.read_range, url), storage.size(url), storage.display(url))
    contents, hashes = _Contents(), []

    def add_sample(key: str, content: memoryview) -> str:
        sample, metadata = decode_with_json(content, name, key, MODALITIES, strict=True)
        contents.add(sample)
        hashes.append(hashes_of(metadata, sample.id, corpus))
        return sample.id

    index = build_index(stream, storage.display(url), add_sample)
    content = index.to_bytes()
    index_name = f"{name.removesuffix('.tar')}.idx"
    storage.write_bytes(storage.join(split_url, index_name), content)
    entry = ShardEntry(
        name=name,
        samples=len(index.keys),
        bytes=stream.size,
        sha256=stream.sha256(),
        index=IndexEntry(name=index_name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()),
    )
    return entry, contents, np.array(hashes, np.uint64).reshape(-1, len(KINDS))
