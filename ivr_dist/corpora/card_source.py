"""What every source that a card describes says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ivr_dist.corpora.card import Card
from ivr_dist.corpora.source import SampleRef
from ivr_dist.shards.specs import FeatureSpec, TaskSpec


class CardSource:
    """A corpus whose layout is on a card; a source of its kind sets these and adds `load`."""

    _card: Card
    _features: Mapping[str, FeatureSpec]
    _splits: Mapping[str, Sequence[SampleRef]]
    _notes: Sequence[str] = ()

    def notes(self) -> Sequence[str]:
        """What was passed over in the files, a sentence each."""
        return self._notes

    @property
    def corpus(self) -> str:
        """The card's name."""
        return self._card.name

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """By modality, as the card says and as wide as in the files."""
        return self._features

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """By name, as the card says."""
        return self._card.tasks

    def splits(self) -> Mapping[str, Sequence[SampleRef]]:
        """All samples by split, in the order of the files."""
        return self._splits
