"""Tars made elsewhere: an index beside each, and one manifest, so that they can be trained on as they are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.data.crew import Crew, Here, Tick
from ivr_dist.data.decode import RawSample, decode_sample
from ivr_dist.data.ids import id_hash
from ivr_dist.data.index import build_index
from ivr_dist.data.index import load as load_index
from ivr_dist.data.manifest import (
    MODALITIES,
    FeatureKind,
    FeatureSpec,
    IndexEntry,
    Manifest,
    Scale,
    ShardEntry,
    Statistics,
    TaskSpec,
)
from ivr_dist.data.statistics import RunningStatistics
from ivr_dist.data.tar import Stream
from ivr_dist.errors import DataError

_REMEDY = "give the tars the layout of shards/README.md, or pack the corpus with `ivr-dist pack`"
_TAR = re.compile(r"[^.].*\.tar")
_TRAIN = "train"


_BYTES_PER_S = 100e6
"""About how fast one process indexes."""


@dataclass
class _Survey:
    """What the samples of a shard, then of all shards, have in common."""

    features: dict[str, FeatureSpec] = field(default_factory=dict)
    statistics: dict[str, RunningStatistics] = field(default_factory=dict)
    tasks: set[str] = field(default_factory=set)
    vocabulary: dict[str, int] = field(default_factory=dict)
    transcripts: int = 0

    def add(self, sample: RawSample) -> None:
        for modality, array in sample.arrays.items():
            self._add_array(modality, array, sample.where)
        self.tasks.update(sample.labels)
        self.transcripts += bool(sample.words)

    def _add_array(self, modality: str, array: npt.NDArray[np.generic], where: str) -> None:
        kind: FeatureKind = "tokens" if array.ndim == 1 and array.dtype.kind in "iu" else "features"
        if kind == "features" and (array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind == "b"):
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
                    remedy="replace them, or pack the corpus with `ivr-dist pack`, which does",
                )
            self.statistics.setdefault(modality, RunningStatistics(dim)).add(array)

    def _add_spec(self, modality: str, spec: FeatureSpec, where: str) -> None:
        known = self.features.setdefault(modality, spec)
        if known != spec:
            raise DataError(
                f"{modality} is {spec.dtype} of width {spec.dim} here and {known.dtype} of width {known.dim} before",
                where=where,
                remedy="index only tars of one feature set together",
            )

    def merge(self, shard: _Survey, where: str) -> None:
        """Add the samples of the next shard."""
        for modality, spec in shard.features.items():
            self._add_spec(modality, spec, where)
        for modality, found in shard.statistics.items():
            self.statistics.setdefault(modality, RunningStatistics(len(found.mean))).merge(found)
        for modality, size in shard.vocabulary.items():
            self.vocabulary[modality] = max(self.vocabulary.get(modality, 0), size)
        self.tasks |= shard.tasks
        self.transcripts += shard.transcripts

    def _add_tokens(self, modality: str, ids: npt.NDArray[Any], where: str) -> None:
        if int(ids.min()) < 0:
            raise DataError(f"{modality} has a token id below 0", where=where, remedy=_REMEDY)
        self.vocabulary[modality] = max(self.vocabulary.get(modality, 0), int(ids.max()) + 1)


def index_tars(
    split_url: str,
    *,
    corpus: str,
    split: str,
    scale: Scale = "none",
    progress: Callable[[int, int], None] = lambda done, total: None,
    crew: Crew | None = None,
) -> Manifest:
    """Index the tars of a directory in place: NAME.idx beside each NAME.tar, then manifest.json.

    Every tar is read once, a few MiB at a time.

    Args:
        split_url: Directory or URL that holds the tars of one split, and gets the indexes.
        corpus: Name of the corpus, in metrics and logs.
        split: Name of the split; `train` gets feature statistics.
        scale: Metric conventions of the labels, all of which are taken for regressions.
        progress: Called with tars done and tars in all.
        crew: Indexes several tars at a time; by default this process does, one after the other.

    Raises:
        DataError: There is no tar, one does not have the layout of a sample, or two samples have one id.
        CorruptDataError: A tar is damaged.
    """
    names = [name for name in storage.list_dir(split_url) if _TAR.fullmatch(name)]
    if not names:
        raise DataError(
            "no tar files here", where=storage.display(split_url), remedy="give the directory that holds them"
        )
    for name in names:
        if not storage.is_plain(name):
            raise DataError(
                f"{name!r} cannot be the name of a shard",
                where=storage.display(split_url),
                remedy="rename it, without backslashes and control characters",
            )
    found: dict[int, _Indexed] = {}

    def take(number: int, result: _Indexed) -> None:
        found[number] = result
        progress(len(found), len(names))

    seconds = sum(storage.file_sizes(split_url, names).values()) / _BYTES_PER_S
    run = Here().run if crew is None or seconds < crew.start_s else crew.run
    run(partial(_index_one, storage.absolute(split_url)), names, lambda number, done: None, take)
    shards, survey = [], _Survey()
    for number, name in enumerate(names):
        entry, part, _ = found[number]
        shards.append(entry)
        survey.merge(part, name)
    _refuse_repeated_ids(split_url, shards, [found[number][2] for number in range(len(names))])
    if not survey.features:
        raise DataError(
            "no sample has a member KEY.text.npy, KEY.audio.npy or KEY.vision.npy",
            where=storage.display(split_url),
            remedy=_REMEDY,
        )
    manifest = Manifest.create(
        corpus=corpus,
        split=split,
        seed=0,
        features={name: survey.features[name] for name in MODALITIES if name in survey.features},
        # Without bounds: those seen would differ between splits, which must have the same tasks.
        tasks={task: TaskSpec(type="regression", scale=scale) for task in sorted(survey.tasks)},
        shards=shards,
        statistics={
            name: Statistics(mean=found.mean.tolist(), std=found.deviation().tolist(), steps=found.steps)
            for name, found in survey.statistics.items()
            if split == _TRAIN
        },
        vocabulary=survey.vocabulary,
        transcripts=survey.transcripts,
    )
    manifest.save(split_url)
    return manifest


_Indexed = tuple[ShardEntry, _Survey, npt.NDArray[np.uint64]]
"""A shard, what its samples have in common, and a hash of the id of each."""


def _refuse_repeated_ids(
    split_url: str, shards: Sequence[ShardEntry], hashes: Sequence[npt.NDArray[np.uint64]]
) -> None:
    """Make sure that no two samples are called alike: they would count as one.

    Raises:
        DataError: Two are.
    """
    known, counts = np.unique(np.concatenate(hashes), return_counts=True)
    repeated = known[counts > 1]
    if not repeated.size:
        return
    places: dict[str, str] = {}
    for shard, own in zip(shards, hashes, strict=True):
        if not np.isin(own, repeated).any():
            continue
        for id_ in load_index(storage.join(split_url, shard.index.name)).names:
            if id_ in places:
                both = f"{places[id_]} and {shard.name}" if places[id_] != shard.name else f"{shard.name} twice"
                raise DataError(
                    f"sample id {id_} is in {both}",
                    where=storage.display(split_url),
                    remedy='give every sample an "id" of its own in its JSON; without one it is called by its KEY',
                )
            places[id_] = shard.name


def _index_one(split_url: str, name: str, tick: Tick) -> _Indexed:
    url = storage.join(split_url, name)
    stream = Stream(partial(storage.read_range, url), storage.size(url), storage.display(url))
    survey, hashes = _Survey(), []

    def look(key: str, content: memoryview) -> str:
        sample = decode_sample(content, name, key, MODALITIES)
        survey.add(sample)
        hashes.append(id_hash(sample.id))
        return sample.id

    index = build_index(stream, storage.display(url), look)
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
    return entry, survey, np.array(hashes, np.uint64)
