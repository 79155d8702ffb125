"""Statistics of samples while they are packed: counted by shard, then merged in the order of the shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ivr_dist.common.word_segmentation import is_unspaced
from ivr_dist.corpora.readers.texts import PLACEHOLDERS
from ivr_dist.corpora.source import Prepared, SourceSample
from ivr_dist.shards.running_statistics import RunningStatistics
from ivr_dist.shards.specs import FeatureSpec, Statistics

_SUMS = ("missing", "replaced", "rounded", "unlabelled", "placeholders")
_COUNTERS = (*_SUMS, "vocabulary")
_NUMBERS = ("empty", "transcripts", "segmented")
_TRAIN = "train"


@dataclass
class ShardStatistics:
    """Counts, and mean and deviation of features, over some samples of one split."""

    features: Mapping[str, FeatureSpec]
    missing: Counter[str] = field(default_factory=Counter)
    """By modality: samples without it."""
    replaced: Counter[str] = field(default_factory=Counter)
    """By modality: values that were replaced by 0."""
    rounded: Counter[str] = field(default_factory=Counter)
    """By modality: whole numbers that the stored type cannot hold to the last digit."""
    unlabelled: Counter[str] = field(default_factory=Counter)
    """By task: samples without its label."""
    placeholders: Counter[str] = field(default_factory=Counter)
    """By field, such as `transcript`: samples in which it is a placeholder for a missing value."""
    vocabulary: Counter[str] = field(default_factory=Counter)
    """By modality of token ids: one more than the largest."""
    empty: int = 0
    """Samples without features and without a transcript."""
    transcripts: int = 0
    """Samples whose transcript has at least one word."""
    segmented: int = 0
    """Samples whose transcript has words without white space between them, which Unicode's boundaries separate."""
    statistics: dict[str, RunningStatistics] = field(default_factory=dict)
    """By modality of features, in the training split: over the time steps in which nothing was replaced."""

    @classmethod
    def empty_of(cls, features: Mapping[str, FeatureSpec], split: str) -> ShardStatistics:
        """Create the statistics of no samples."""
        dims = {name: spec.dim for name, spec in features.items() if spec.kind == "features" and split == _TRAIN}
        return cls(features, statistics={name: RunningStatistics(dim) for name, dim in dims.items()})

    def add(self, sample: SourceSample, prepared: Prepared) -> None:
        """Count a sample."""
        if len(prepared.arrays) < len(self.features):
            self.missing.update(name for name in self.features if name not in prepared.arrays)
        if prepared.replaced:
            self.replaced.update(prepared.replaced)
        if prepared.rounded:
            self.rounded.update(prepared.rounded)
        if sample.transcript in PLACEHOLDERS or sample.id in PLACEHOLDERS or sample.group in PLACEHOLDERS:
            texts = {"id": sample.id, "group": sample.group, "transcript": sample.transcript}
            self.placeholders.update(name for name, value in texts.items() if value in PLACEHOLDERS)
        if None in sample.labels.values():
            self.unlabelled.update(task for task, label in sample.labels.items() if label is None)
        has_transcript = bool(sample.transcript.split())
        self.empty += not prepared.arrays and not has_transcript
        self.transcripts += has_transcript
        self.segmented += is_unspaced(sample.transcript)
        for name, array in prepared.arrays.items():
            if self.features[name].kind == "tokens":
                self.vocabulary[name] = max(self.vocabulary[name], int(array.max()) + 1)
            if name in self.statistics:
                steps = array[prepared.clean[name]] if name in prepared.clean else array
                self.statistics[name].add(steps)

    @classmethod
    def merged(
        cls, features: Mapping[str, FeatureSpec], split: str, parts: Iterable[ShardStatistics]
    ) -> ShardStatistics:
        """Merge the statistics of shards; the last digits of mean and deviation depend on the order."""
        total = cls.empty_of(features, split)
        for part in parts:
            for name in _SUMS:
                getattr(total, name).update(getattr(part, name))
            total.vocabulary |= part.vocabulary
            total.empty += part.empty
            total.transcripts += part.transcripts
            total.segmented += part.segmented
            for name, running in total.statistics.items():
                running.merge(part.statistics[name])
        return total

    def manifest_statistics(self) -> dict[str, Statistics]:
        """Return mean and deviation by modality, as stored in the manifest."""
        return {
            name: Statistics(mean=running.mean.tolist(), std=running.deviation().tolist(), steps=running.steps)
            for name, running in self.statistics.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Encode everything as JSON values."""
        counts = {name: getattr(self, name) for name in (*_COUNTERS, *_NUMBERS)}
        return {**counts, "statistics": {name: running.to_json() for name, running in self.statistics.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], features: Mapping[str, FeatureSpec]) -> ShardStatistics:
        """Decode the result of `to_json`."""
        statistics = cls(features, **{name: value[name] for name in _NUMBERS})
        for name in _COUNTERS:
            getattr(statistics, name).update(value[name])
        statistics.statistics = {name: RunningStatistics.from_json(part) for name, part in value["statistics"].items()}
        return statistics
