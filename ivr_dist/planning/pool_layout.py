"""Layout of a pool: what the model reads from and predicts for each corpus, equal on all workers. Pure data.

A pool is one or more corpora that are trained on together. A feature set (`FeatureSpec.set`, or the name that
`data.corpora.NAME.sets` gives it) is read by one input layer of the model, whichever corpora have it; a head predicts
one or more tasks of equal specification. A run of `data.train` is a pool of one corpus, whose heads are its tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ivr_dist.shards.specs import TaskSpec

WORDS_SET = "words"
"""Name of the feature set of transcripts that a pretrained encoder reads."""

Input = tuple[str, int]
"""Kind and width of a feature set: D of `features`, size of the vocabulary of `tokens`, width of the pretrained
encoder of `words`."""


@dataclass(frozen=True, kw_only=True)
class CorpusLayout:
    """One corpus of a pool."""

    name: str
    """Its name in the config and in metrics; that of the manifest for `data.train`."""
    sets: Mapping[str, str]
    """By modality that is read from it: the name of its feature set."""
    tasks: Mapping[str, TaskSpec]
    """By task, in the corpus' own range."""
    heads: Mapping[str, str]
    """By task: the head that predicts it; different tasks have different heads."""
    held_out: bool = False
    """Whether it is scored only."""
    loss_weight: float = 1.0
    """Factor of its task losses."""


@dataclass(frozen=True, kw_only=True)
class PoolLayout:
    """All corpora of a run, and the inputs and outputs of the model."""

    corpora: tuple[CorpusLayout, ...]
    """In the order of the config."""
    sets: Mapping[str, Mapping[str, Input]]
    """By modality, in the order of MODALITIES, and by feature set, in the order of their names: those of trained
    corpora."""
    heads: Mapping[str, TaskSpec]
    """By head, of those of trained corpora; the range of a regression is -1..1 where `scale` is `unit`."""
    scale: Literal["native", "unit"] = "native"
    """Range in which regression heads predict: that of the task, or [-1, 1], to which labels are mapped linearly."""

    @property
    def is_pool(self) -> bool:
        """Whether there is more than one corpus; one corpus keeps the names and formats of `data.train`."""
        return len(self.corpora) > 1

    def number(self, name: str) -> int:
        """Return the number of a corpus, as in `Batch.corpus`."""
        return [corpus.name for corpus in self.corpora].index(name)
