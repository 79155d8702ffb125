"""The corpora of a checkpoint: what a model of several corpora reads from and predicts for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ivr_dist.planning.pool_heads import LossScale
from ivr_dist.shards.specs import TaskSpec


@dataclass(frozen=True, kw_only=True)
class CorpusState:
    """One corpus of a checkpoint."""

    name: str
    sets: Mapping[str, str]
    """By modality: its feature set."""
    tasks: Mapping[str, TaskSpec]
    """In its own range."""
    heads: Mapping[str, str]
    """By task: the head that predicts it."""
    held_out: bool = False
    loss_weight: float = 1.0
    statistics: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    """By standardized modality: mean [D] and standard deviation [D]."""


@dataclass(frozen=True, kw_only=True)
class PoolState:
    """All corpora of a checkpoint, and the inputs of its model."""

    corpora: Sequence[CorpusState]
    sets: Mapping[str, Mapping[str, Sequence[str | int]]]
    """By modality, in the model's order, and by feature set: kind and width."""
    scale: LossScale = "native"
    """Range in which regression heads predict."""

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

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "corpora": [
                {
                    "name": corpus.name,
                    "sets": dict(corpus.sets),
                    "tasks": {task: spec.to_json() for task, spec in corpus.tasks.items()},
                    "heads": dict(corpus.heads),
                    "held_out": corpus.held_out,
                    "loss_weight": corpus.loss_weight,
                    "statistics": {name: [list(part) for part in parts] for name, parts in corpus.statistics.items()},
                }
                for corpus in self.corpora
            ],
            "sets": {modality: {name: list(form) for name, form in own.items()} for modality, own in self.sets.items()},
            "scale": self.scale,
        }
