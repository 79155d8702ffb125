"""Base class of the sources of cards: name, features, tasks and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ivr_dist.corpora.card import Card
from ivr_dist.corpora.source import SampleRef
from ivr_dist.shards.specs import FeatureSpec, SplitBy, TaskSpec


class CardSource:
    """A corpus that a card describes; a subclass sets the attributes and adds `load`."""

    _card: Card
    _features: Mapping[str, FeatureSpec]
    _splits: Mapping[str, Sequence[SampleRef]]
    _notes: Sequence[str] = ()

    def notes(self) -> Sequence[str]:
        """List what was skipped in the files, a sentence each."""
        return self._notes

    @property
    def split_by(self) -> SplitBy:
        """What the splits of the card keep together."""
        return self._card.split_by

    @property
    def corpus(self) -> str:
        """Name of the card."""
        return self._card.name

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """Features of the card by modality, with the widths of the files."""
        return self._features

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """Tasks of the card by name."""
        return self._card.tasks

    def splits(self) -> Mapping[str, Sequence[SampleRef]]:
        """List all samples by split, in the order of the files."""
        return self._splits
