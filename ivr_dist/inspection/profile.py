"""Data profile of packed splits: counts, lengths, labels and values.

Counts and lengths come from manifests and indexes and cover all samples; values are read from evenly spread segments of
the shards, and the profile states which part that was.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.inspection.summaries import (
    FeatureCollector,
    FeatureValues,
    FieldCollector,
    FieldSummary,
    LabelSummary,
    LengthCounts,
    Spread,
    TokenCollector,
    TokenValues,
    label_edges,
    length_edges,
    summarize_labels,
)
from ivr_dist.shards.decode import RawSample, decode_with_json
from ivr_dist.shards.index import load as load_index
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.shard_table import ShardEntry
from ivr_dist.shards.specs import FeatureSpec
from ivr_dist.shards.splits import group_of

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the split, the number of segments read and the number of segments to read."""

SEGMENTS = 128
"""Segments of a split that are read, of about 1 MiB each, unless `full` is set."""

_THREADS = 8
_SEGMENTS_PER_READ = 16


@dataclass(frozen=True)
class ScannedPart:
    """The part of a split whose values were read: some segments, spread evenly over all shards."""

    samples: int
    of_samples: int
    segments: int
    of_segments: int

    @property
    def is_all(self) -> bool:
        """Whether every segment was read."""
        return self.segments == self.of_segments


@dataclass(frozen=True)
class ModalityProfile:
    """Profile of one modality of a split."""

    features: FeatureSpec
    present: int
    """Samples that have the modality."""
    steps: int
    """Steps of all samples."""
    lengths: Spread | None
    """None if no sample has the modality."""
    values: FeatureValues | TokenValues | None
    """None if no sample that was read has the modality."""


@dataclass(frozen=True)
class SplitProfile:
    """Profile of one split."""

    url: str
    """Path or URL of the split."""
    corpus: str
    """Name of the corpus."""
    split: str
    """Name of the split."""
    manifest_id: str
    """Id of the manifest, the same for the same data."""
    seed: int
    """Seed by which samples were shuffled into shards."""
    samples: int
    """Number of samples."""
    shards: int
    """Number of shards."""
    bytes: int
    """Size of the shards."""
    coverage: dict[str, int]
    """Number of samples by their modalities, such as `text+audio`; `none` if they have none, `transcript` where the
    text is a transcript alone."""
    modalities: dict[str, ModalityProfile]
    """Lengths and values, by modality."""
    transcripts: int
    """Samples whose transcript has a word, from the manifest; 0 also if an older version did not count them."""
    scanned: ScannedPart
    """The part that all fields below, and the values of modalities, were read from."""
    labels: dict[str, LabelSummary]
    """Distribution of the labels, by task."""
    words: Spread | None
    """Number of words of the transcripts; None if no sample has one."""
    groups: int
    """Number of distinct groups (videos)."""
    ungrouped: int
    """Samples without a group."""
    cautions: list[str]
    """What limits results on the split, a sentence each."""
    provenance: dict[str, FieldSummary]
    """Values of the samples' provenance, by key."""

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON values; the part that was read is `looked`."""
        return {"looked" if name == "scanned" else name: value for name, value in asdict(self).items()}


def profile(
    urls: Sequence[str], full: bool = False, progress: Progress = lambda split, done, total: None
) -> list[SplitProfile]:
    """Profile packed splits. Histograms of one quantity have the same bins in all splits.

    Args:
        urls: Folder or URL of each split.
        full: Read the values of all samples instead of those of SEGMENTS segments.
        progress: Called after every few segments.

    Raises:
        DataError: A split does not exist, or one of its files is missing.
        CorruptDataError: A split is damaged; `ivr-dist verify` shows where.
    """
    scans = [_scan(url, full, progress) for url in urls]
    length_bins = {name: length_edges(scan.lengths[name] for scan in scans) for name in MODALITIES}
    word_bins = length_edges(scan.words for scan in scans)
    label_bins: dict[str, list[float] | None] = {}
    for scan in scans:
        for task, spec in scan.manifest.tasks.items():
            labels = np.concatenate([other.labels_of(task) for other in scans])
            label_bins.setdefault(task, label_edges(spec, labels))
    return [_profile_of(scan, length_bins, word_bins, label_bins) for scan in scans]


class _Scan:
    """Counts and values collected from one split."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.manifest = Manifest.load(url)
        self.coverage: Counter[tuple[bool, ...]] = Counter()
        self.lengths = {name: LengthCounts() for name in MODALITIES}
        self.scanned = ScannedPart(0, 0, 0, 0)
        self.labels: dict[str, list[list[float]]] = {}
        self.missing: Counter[str] = Counter()
        self.words = LengthCounts()
        self.values = {name: _collector(spec) for name, spec in self.manifest.features.items()}
        self.groups: set[str] = set()
        self.ungrouped = 0
        self.fields: dict[str, FieldCollector] = {}

    def add(self, samples: Sequence[tuple[RawSample, Mapping[str, Any]]]) -> None:
        """Collect some samples, each with its JSON."""
        for name, collector in self.values.items():
            arrays = [raw.arrays[name] for raw, _ in samples if name in raw.arrays]
            if arrays:
                collector.add(np.concatenate(arrays))
        for task in self.manifest.tasks:
            labels = [label for raw, _ in samples if (label := raw.labels.get(task)) is not None]
            self.missing[task] += len(samples) - len(labels)
            self.labels.setdefault(task, []).append(labels)
        self.words.add(np.array([len(raw.words) for raw, _ in samples if raw.words], np.int64))
        for raw, about in samples:
            group = group_of(about, raw.id)
            if group is None:
                self.ungrouped += 1
            else:
                self.groups.add(group)
            provenance = about.get("provenance")
            for name, value in provenance.items() if isinstance(provenance, dict) else ():
                self.fields.setdefault(name, FieldCollector()).add(json.dumps(value))

    def labels_of(self, task: str) -> npt.NDArray[np.float64]:
        """Return all labels of a task that were read."""
        return np.concatenate([np.zeros(0), *self.labels.get(task, ())])


@dataclass(frozen=True)
class _IndexSummary:
    """Segments, modalities and lengths of one shard, from its index."""

    segment: npt.NDArray[np.int64]
    coverage: Counter[tuple[bool, ...]] = field(default_factory=Counter)
    lengths: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)


def _scan(url: str, full: bool, progress: Progress) -> _Scan:
    scan = _Scan(url)
    manifest = scan.manifest
    manifest.check_shards(url)
    segments: list[tuple[int, int]] = []
    start = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for summary in pool.map(lambda entry: _summarize_index(url, entry), manifest.shards):
            scan.coverage.update(summary.coverage)
            for name, lengths in summary.lengths.items():
                scan.lengths[name].add(lengths)
            segments += pairwise((start + summary.segment).tolist())
            start += int(summary.segment[-1])
    chosen = segments if full else _spread_evenly(segments, SEGMENTS)
    samples = sum(end - first for first, end in chosen)
    scan.scanned = ScannedPart(samples, manifest.samples, len(chosen), len(segments))
    logger.info("%s: reading %d of %d segments", storage.display(url), len(chosen), len(segments))
    reader = ShardReader(url, manifest, 0)
    try:
        for done, batch in _read(reader, chosen):
            scan.add(batch)
            progress(manifest.split, done, len(chosen))
    finally:
        reader.close()
    return scan


def _summarize_index(url: str, entry: ShardEntry) -> _IndexSummary:
    index = load_index(storage.join(url, entry.index.name))
    patterns, counts = np.unique(index.lengths >= 0, axis=0, return_counts=True)
    coverage = Counter({tuple(row): n for row, n in zip(patterns.tolist(), counts.tolist(), strict=True)})
    lengths = {name: index.lengths[index.lengths[:, i] >= 0, i] for i, name in enumerate(MODALITIES)}
    return _IndexSummary(index.segment, coverage, lengths)


def _spread_evenly(items: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    if len(items) <= most:
        return list(items)
    return [items[round(position)] for position in np.linspace(0, len(items) - 1, most)]


def _read(
    reader: ShardReader, segments: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, list[tuple[RawSample, dict[str, Any]]]]]:
    """Yield the samples of some segments, a few segments at a time, with the number of segments read so far."""
    for first in range(0, len(segments), _SEGMENTS_PER_READ):
        some = segments[first : first + _SEGMENTS_PER_READ]
        stored = reader.stored(np.concatenate([np.arange(start, end) for start, end in some]))
        features = reader.manifest.features
        yield first + len(some), [decode_with_json(one.content, one.shard, one.key, features) for one in stored]


def _collector(spec: FeatureSpec) -> FeatureCollector | TokenCollector:
    return TokenCollector() if spec.kind == "tokens" else FeatureCollector(spec.dim)


def _pattern(manifest: Manifest, there: Sequence[bool]) -> str:
    """Name the modalities of some samples; transcripts, which an encoder reads, are one where there is no other text.

    Indexes do not tell which samples have a transcript, so it is named where all have one.
    """
    names = [name for name, present in zip(MODALITIES, there, strict=True) if present]
    if "text" in manifest.features or not manifest.transcripts:
        return "+".join(names) or "none"
    if manifest.transcripts == manifest.samples:
        return "+".join(["transcript", *names])
    return "+".join(names) or "transcript or none"


def _profile_of(
    scan: _Scan,
    length_bins: Mapping[str, Sequence[float]],
    word_bins: Sequence[float],
    label_bins: Mapping[str, Sequence[float] | None],
) -> SplitProfile:
    manifest = scan.manifest
    modalities = {}
    for name, spec in manifest.features.items():
        counts = scan.lengths[name].counts
        modalities[name] = ModalityProfile(
            features=spec,
            present=counts.total(),
            steps=sum(length * count for length, count in counts.items()),
            lengths=scan.lengths[name].spread(length_bins[name]),
            values=scan.values[name].summary(),
        )
    coverage = {_pattern(manifest, pattern): count for pattern, count in scan.coverage.most_common()}
    return SplitProfile(
        url=storage.display(scan.url),
        corpus=manifest.corpus,
        split=manifest.split,
        manifest_id=manifest.id,
        seed=manifest.seed,
        samples=manifest.samples,
        shards=len(manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards),
        coverage=coverage,
        modalities=modalities,
        transcripts=manifest.transcripts,
        scanned=scan.scanned,
        labels={
            task: summarize_labels(spec, scan.labels_of(task), scan.missing[task], label_bins[task])
            for task, spec in manifest.tasks.items()
        },
        words=scan.words.spread(word_bins),
        groups=len(scan.groups),
        ungrouped=scan.ungrouped,
        cautions=manifest.cautions,
        provenance={name: collector.summary() for name, collector in scan.fields.items()},
    )
