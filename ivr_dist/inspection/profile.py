"""What packed data holds: counts and lengths from manifests and indexes, values from a stated part of the shards."""

from __future__ import annotations

import json
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

Progress = Callable[[str, int, int], None]
"""Called with the split, the segments read and the segments that will be."""

SEGMENTS = 128
"""Segments of a split whose values are read unless all are asked for; about 1 MiB each."""

_THREADS = 8
_AT_ONCE = 16


@dataclass(frozen=True)
class ScannedPart:
    """Which part of a split's values was read: some segments, spread evenly over all shards."""

    samples: int
    of_samples: int
    segments: int
    of_segments: int

    @property
    def all(self) -> bool:
        """Whether it was everything."""
        return self.segments == self.of_segments


@dataclass(frozen=True)
class ModalitySurvey:
    """One modality of a split."""

    features: FeatureSpec
    present: int
    """Samples that have it."""
    steps: int
    """Steps of all of them."""
    lengths: Spread | None
    """None where no sample has it."""
    values: FeatureValues | TokenValues | None
    """None where nothing was read that has it."""


@dataclass(frozen=True)
class SplitSurvey:
    """One split."""

    url: str
    corpus: str
    split: str
    manifest_id: str
    seed: int
    samples: int
    shards: int
    bytes: int
    """Of the shards."""
    coverage: dict[str, int]
    """Samples by the modalities they have, as `text+audio`; those without any as `none`."""
    modalities: dict[str, ModalitySurvey]
    transcripts: int
    """Samples whose transcript has a word, as the manifest says; 0 also where it was not counted."""
    looked: ScannedPart
    """What all below was read from, and the values of modalities."""
    labels: dict[str, LabelSummary]
    words: Spread | None
    """Words of the transcripts that have one; None where none has."""
    groups: int
    """Different groups (videos)."""
    ungrouped: int
    """Samples that do not say their group."""
    provenance: dict[str, FieldSummary]
    """By key."""

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON values."""
        return asdict(self)


def survey(
    places: Sequence[str], full: bool = False, progress: Progress = lambda split, done, total: None
) -> list[SplitSurvey]:
    """Look at splits. Histograms of the same thing have the same bins in all of them.

    Args:
        places: Folder or URL of each split.
        full: Read the values of all samples instead of those of SEGMENTS segments.
        progress: Called now and then.

    Raises:
        DataError: There is no such split, or a file of it is missing.
        CorruptDataError: It is damaged; `ivr-dist verify` tells where.
    """
    gathered = [_gather(place, full, progress) for place in places]
    length_bins = {name: length_edges(each.lengths[name] for each in gathered) for name in MODALITIES}
    word_bins = length_edges(each.words for each in gathered)
    label_bins: dict[str, list[float] | None] = {}
    for each in gathered:
        for task, spec in each.manifest.tasks.items():
            found = [other.labels_of(task) for other in gathered]
            label_bins.setdefault(task, label_edges(spec, np.concatenate(found)))
    return [_survey_of(each, length_bins, word_bins, label_bins) for each in gathered]


class _Gathered:
    """What was seen of one split."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.manifest = Manifest.load(url)
        self.coverage: Counter[tuple[bool, ...]] = Counter()
        self.lengths = {name: LengthCounts() for name in MODALITIES}
        self.looked = ScannedPart(0, 0, 0, 0)
        self.labels: dict[str, list[list[float]]] = {}
        self.missing: Counter[str] = Counter()
        self.words = LengthCounts()
        self.values = {name: _collector(spec) for name, spec in self.manifest.features.items()}
        self.groups: set[str] = set()
        self.ungrouped = 0
        self.fields: dict[str, FieldCollector] = {}

    def add(self, samples: Sequence[tuple[RawSample, Mapping[str, Any]]]) -> None:
        """Take in some samples with their JSON."""
        for name, collector in self.values.items():
            arrays = [raw.arrays[name] for raw, _ in samples if name in raw.arrays]
            if arrays:
                collector.add(np.concatenate(arrays))
        for task in self.manifest.tasks:
            found = [label for raw, _ in samples if (label := raw.labels.get(task)) is not None]
            self.missing[task] += len(samples) - len(found)
            self.labels.setdefault(task, []).append(found)
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
        """All labels of a task."""
        return np.concatenate([np.zeros(0), *self.labels.get(task, ())])


@dataclass(frozen=True)
class _Layout:
    """What the index of one shard says."""

    segment: npt.NDArray[np.int64]
    coverage: Counter[tuple[bool, ...]] = field(default_factory=Counter)
    lengths: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)


def _gather(url: str, full: bool, progress: Progress) -> _Gathered:
    gathered = _Gathered(url)
    manifest = gathered.manifest
    manifest.check_shards(url)
    segments: list[tuple[int, int]] = []
    start = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for layout in pool.map(lambda entry: _layout(url, entry), manifest.shards):
            gathered.coverage.update(layout.coverage)
            for name, lengths in layout.lengths.items():
                gathered.lengths[name].add(lengths)
            segments += pairwise((start + layout.segment).tolist())
            start += int(layout.segment[-1])
    chosen = segments if full else _spread_evenly(segments, SEGMENTS)
    gathered.looked = ScannedPart(
        sum(end - first for first, end in chosen), manifest.samples, len(chosen), len(segments)
    )
    reader = ShardReader(url, manifest, 0)
    try:
        for done, samples in _read(reader, chosen):
            gathered.add(samples)
            progress(manifest.split, done, len(chosen))
    finally:
        reader.close()
    return gathered


def _layout(url: str, entry: ShardEntry) -> _Layout:
    index = load_index(storage.join(url, entry.index.name))
    patterns, counts = np.unique(index.lengths >= 0, axis=0, return_counts=True)
    coverage = Counter({tuple(row): n for row, n in zip(patterns.tolist(), counts.tolist(), strict=True)})
    lengths = {name: index.lengths[index.lengths[:, i] >= 0, i] for i, name in enumerate(MODALITIES)}
    return _Layout(index.segment, coverage, lengths)


def _spread_evenly(items: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    if len(items) <= most:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, most)]


def _read(
    reader: ShardReader, segments: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, list[tuple[RawSample, dict[str, Any]]]]]:
    """The samples of some segments, with the number of segments read so far."""
    for first in range(0, len(segments), _AT_ONCE):
        some = segments[first : first + _AT_ONCE]
        stored = reader.stored(np.concatenate([np.arange(start, end) for start, end in some]))
        features = reader.manifest.features
        yield first + len(some), [decode_with_json(one.content, one.shard, one.key, features) for one in stored]


def _collector(spec: FeatureSpec) -> FeatureCollector | TokenCollector:
    return TokenCollector() if spec.kind == "tokens" else FeatureCollector(spec.dim)


def _survey_of(
    gathered: _Gathered,
    length_bins: Mapping[str, Sequence[float]],
    word_bins: Sequence[float],
    label_bins: Mapping[str, Sequence[float] | None],
) -> SplitSurvey:
    manifest = gathered.manifest
    modalities = {}
    for name, spec in manifest.features.items():
        counts = gathered.lengths[name].counts
        modalities[name] = ModalitySurvey(
            features=spec,
            present=counts.total(),
            steps=sum(length * count for length, count in counts.items()),
            lengths=gathered.lengths[name].spread(length_bins[name]),
            values=gathered.values[name].summary(),
        )
    coverage = {
        "+".join(name for name, there in zip(MODALITIES, pattern, strict=True) if there) or "none": count
        for pattern, count in gathered.coverage.most_common()
    }
    return SplitSurvey(
        url=storage.display(gathered.url),
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
        looked=gathered.looked,
        labels={
            task: summarize_labels(spec, gathered.labels_of(task), gathered.missing[task], label_bins[task])
            for task, spec in manifest.tasks.items()
        },
        words=gathered.words.spread(word_bins),
        groups=len(gathered.groups),
        ungrouped=gathered.ungrouped,
        provenance={name: collector.summary() for name, collector in gathered.fields.items()},
    )
