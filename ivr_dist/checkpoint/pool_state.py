"""The corpora of a checkpoint: what a model of several corpora reads from and predicts for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ivr_dist.planning.pool_heads import LossScale
from ivr_dist.planning.pool_layout import CorpusLayout


@dataclass(frozen=True, kw_only=True)
class PoolState:
    """All corpora of a checkpoint, and the inputs of its model."""

    corpora: Sequence[CorpusLayout]
    sets: Mapping[str, Mapping[str, Sequence[str | int]]]
    """By modality, in the model's order, and by feature set: kind and width."""
    scale: LossScale = "native"
    """Range in which regression heads predict."""
    statistics: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] = field(default_factory=dict)
    """By corpus and standardized modality: mean [D] and standard deviation [D]."""
    set_statistics: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] = field(default_factory=dict)
    """By standardized modality and feature set: those of all trained corpora; empty in earlier checkpoints."""

    def __post_init__(self) -> None:
        """Check constraints beyond the types.

        Raises:
            ValueError: Two values contradict each other.
        """
        for modality, sets in self.sets.items():
            for name, form in sets.items():
                if [type(part) for part in form] != [str, int] or int(form[1]) < 1:
                    raise ValueError(f"pool.sets.{modality}.{name}: not a kind and a width")
        for corpus in self.corpora:
            for modality, own in corpus.sets.items():
                if own not in self.sets.get(modality, {}):
                    raise ValueError(f"pool.corpora: {corpus.name} has the unknown set {own} of {modality}")
            if set(corpus.tasks) != set(corpus.heads):
                raise ValueError(f"pool.corpora: {corpus.name} does not have a head for each task")
        for name in self.statistics:
            if name not in [corpus.name for corpus in self.corpora]:
                raise ValueError(f"pool.statistics: no corpus {name}")
        for modality, known in self.set_statistics.items():
            if unknown := set(known) - set(self.sets.get(modality, {})):
                raise ValueError(f"pool.set_statistics: no set {min(unknown)} of {modality}")

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        corpora = [
            {**asdict(corpus), "tasks": {task: spec.to_json() for task, spec in corpus.tasks.items()}}
            for corpus in self.corpora
        ]
        return {**asdict(self), "corpora": corpora}
