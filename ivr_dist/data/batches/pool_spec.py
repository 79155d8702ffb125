"""Contents of the batches of a pool: layout, and by corpus statistics, label ranges and label weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.batches.pool_labels import LabelColumns
from ivr_dist.data.batches.tokenization import PieceEncoder, Tokenizer
from ivr_dist.errors import DataError
from ivr_dist.planning.pool_layout import WORDS, CorpusLayout, PoolLayout
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import Statistics, TaskSpec

Float32Array = npt.NDArray[np.float32]
Scaling = tuple[Float32Array, Float32Array]
"""Mean [D] and standard deviation [D] that features are standardized with."""


@dataclass(frozen=True)
class Scalings:
    """Statistics that one feature set is standardized with, by corpus."""

    row: npt.NDArray[np.int64]
    """[corpora] row of the statistics of each corpus; corpora of equal statistics share one."""
    mean: Float32Array
    """[R, D]."""
    deviation: Float32Array
    """[R, D]."""

    def of_rows(self, rows: npt.NDArray[np.int64]) -> Scaling:
        """Mean and deviation by row, [..., D]; [D] where all corpora have the same ones."""
        if len(self.mean) == 1:
            return self.mean[0], self.deviation[0]
        return self.mean[rows], self.deviation[rows]

    @classmethod
    def of(cls, statistics: Mapping[int, Scaling], has_set: npt.NDArray[np.bool_]) -> Scalings:
        """Collect the statistics of some corpora that have a set; the others that have it are not changed.

        Args:
            statistics: By number of the corpus.
            has_set: [corpora] whether a corpus has the set.
        """
        width = len(next(iter(statistics.values()))[0])
        rows: dict[bytes, int] = {}
        means, deviations, row = [], [], np.zeros(len(has_set), np.int64)
        nothing = np.zeros(width, np.float32), np.ones(width, np.float32)
        for number in np.flatnonzero(has_set).tolist():
            mean, deviation = statistics.get(number, nothing)
            key = mean.tobytes() + deviation.tobytes()
            if key not in rows:
                rows[key] = len(rows)
                means.append(mean)
                deviations.append(deviation)
            row[number] = rows[key]
        return cls(row, np.stack(means), np.stack(deviations))


@dataclass(frozen=True)
class PoolSpec:
    """Contents of every batch of a run on several corpora."""

    layout: PoolLayout
    statistics: Mapping[str, Mapping[str, Scaling]] = field(default_factory=dict)
    """By corpus and by standardized modality."""
    class_weights: Mapping[str, Mapping[str, Float32Array]] = field(default_factory=dict)
    """By corpus and task: [C] weight of each class."""
    sample_weights: Mapping[str, str] = field(default_factory=dict)
    """By corpus: the label that weighs its samples."""
    tokenizer: Tokenizer | None = field(default=None, compare=False)
    """Splits words into the pieces of the pretrained encoder, if a set is of kind `words`."""
    set_statistics: Mapping[str, Mapping[str, Scaling]] = field(default_factory=dict)
    """By standardized modality and feature set: statistics of all trained corpora, for corpora without their own."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that are read of any corpus, in the order of MODALITIES."""
        return tuple(self.layout.sets)

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """By head: what it predicts."""
        return self.layout.heads

    @cached_property
    def label_columns(self) -> LabelColumns:
        """The tasks of all corpora."""
        return LabelColumns(self.layout, self.class_weights, self.sample_weights)

    @cached_property
    def has_set(self) -> Mapping[str, Mapping[str, npt.NDArray[np.bool_]]]:
        """By modality and feature set: [corpora] whether a corpus has the set."""
        return {
            modality: {
                name: np.array([corpus.sets.get(modality) == name for corpus in self.layout.corpora], bool)
                for name in sets
            }
            for modality, sets in self.layout.sets.items()
        }

    @cached_property
    def scalings(self) -> Mapping[str, Mapping[str, Scalings]]:
        """By modality and feature set, of those that some corpus standardizes."""
        found: dict[str, dict[str, Scalings]] = {}
        for modality, sets in self.layout.sets.items():
            found[modality] = {}
            for name in sets:
                own = {
                    number: self.statistics[corpus.name][modality]
                    for number, corpus in enumerate(self.layout.corpora)
                    if corpus.sets.get(modality) == name and modality in self.statistics.get(corpus.name, {})
                }
                if own:
                    found[modality][name] = Scalings.of(own, self.has_set[modality][name])
        return found

    def check_split(self, number: int, split: Manifest) -> None:
        """Check that a split has the feature sets and tasks of its corpus.

        Args:
            number: Number of the corpus.
            split: Manifest of one of its splits.

        Raises:
            DataError: It lacks a modality or task, or has one of another width or type.
        """
        corpus = self.layout.corpora[number]
        spec = BatchSpec(
            {modality: self.layout.sets[modality][own] for modality, own in corpus.sets.items()}, corpus.tasks, {}
        )
        spec.check_split(split)


def pool_spec(
    layout: PoolLayout,
    trains: Mapping[str, Manifest],
    standardize: Collection[str],
    *,
    by_set: bool = False,
    class_weights: Mapping[str, Mapping[str, Float32Array]] | None = None,
    sample_weights: Mapping[str, str] | None = None,
    text: PieceEncoder | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> PoolSpec:
    """Take the statistics of each corpus from the training splits.

    Args:
        layout: Layout of the pool.
        trains: Manifest of the training split by corpus, of those that have one.
        standardize: Modalities to standardize; tokens and words are not changed.
        by_set: Whether a feature set is standardized by the statistics of all corpora that have it, instead of each
            corpus by its own.
        class_weights: See `PoolSpec`.
        sample_weights: See `PoolSpec`.
        text: The pretrained encoder that reads the transcripts, if there is one.
        note: Called with warnings of its tokenizer.

    Raises:
        DataError: A manifest lacks the statistics of a modality.
    """
    reads_words = any(kind == WORDS for sets in layout.sets.values() for kind, _ in sets.values())
    statistics: dict[str, dict[str, Scaling]] = {}
    for corpus in layout.corpora:
        statistics[corpus.name] = {
            modality: _scaling(layout, corpus, modality, trains, by_set)
            for modality, own in corpus.sets.items()
            if modality in standardize and layout.sets[modality][own][0] == "features"
        }
    set_statistics = {
        modality: {
            own: _merged_scaling([corpus.name for corpus in having], modality, trains)
            for own, (kind, _) in sets.items()
            if kind == "features" and (having := layout.trained_on(modality, own))
        }
        for modality, sets in layout.sets.items()
        if modality in standardize
    }
    return PoolSpec(
        layout,
        statistics,
        class_weights or {},
        sample_weights or {},
        None if text is None or not reads_words else text.tokenizer(note),
        set_statistics,
    )


def _scaling(
    layout: PoolLayout, corpus: CorpusLayout, modality: str, trains: Mapping[str, Manifest], by_set: bool
) -> Scaling:
    # A corpus without a training split has no statistics of its own.
    of_set = [other.name for other in layout.trained_on(modality, corpus.sets[modality])]
    names = of_set if by_set or corpus.name not in trains else [corpus.name]
    return _merged_scaling(names, modality, trains)


def _merged_scaling(names: Collection[str], modality: str, trains: Mapping[str, Manifest]) -> Scaling:
    parts = []
    for name in names:
        if modality not in trains[name].statistics:
            raise DataError(
                f"the training split of {name} has no statistics of {modality}",
                where="data.standardize",
                remedy=f"leave {modality} out of it, or pack the training split",
            )
        parts.append(trains[name].statistics[modality])
    mean, deviation = merged_statistics(parts)
    return mean.astype(np.float32), deviation.astype(np.float32)


def merged_statistics(parts: Collection[Statistics]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean [D] and standard deviation [D] of all time steps of several corpora, from those of each (Chan et al. 1983).

    One corpus keeps its own exactly. A feature that is constant in a corpus counts with the deviation 1 that its
    manifest has for it.
    """
    first, *others = parts
    mean, deviation = np.array(first.mean, np.float64), np.array(first.std, np.float64)
    if not others:
        return mean, deviation
    steps, squares = first.steps, np.square(deviation) * first.steps
    for part in others:
        difference = np.array(part.mean, np.float64) - mean
        total = max(steps + part.steps, 1)
        squares += np.square(np.array(part.std, np.float64)) * part.steps
        squares += np.square(difference) * (steps * part.steps / total)
        mean += difference * (part.steps / total)
        steps += part.steps
    deviation = np.sqrt(squares / max(steps, 1))
    return mean, np.where(deviation > 0, deviation, 1.0)
