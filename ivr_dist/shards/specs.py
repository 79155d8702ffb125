"""Specifications of a packed split: features, tasks, statistics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

FeatureKind = Literal["features", "tokens"]


TaskType = Literal["regression", "classification"]


Scale = Literal["mosi", "sims", "humor", "emotion", "none"]


SplitBy = Literal["group", "clip"]
"""What a split keeps together: groups (videos, dialogues), or clips alone, so that one video is in several splits."""


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Features of one modality."""

    set: str
    """Name of the feature set, such as glove300; features of one set are comparable across corpora."""
    dim: int
    """Width of a time step; 1 for tokens."""
    dtype: str
    """numpy's name of the stored type, such as float32."""
    kind: FeatureKind
    """Feature vectors, or token ids of a vocabulary."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A prediction task."""

    type: TaskType
    low: float | None = None
    """Smallest label of a regression."""
    high: float | None = None
    """Largest label of a regression."""
    classes: int | None = None
    """Number of classes of a classification."""
    scale: Scale = "none"
    """Benchmark whose conventions the metrics follow."""
    names: tuple[str, ...] | None = None
    """Names of the classes of a classification, in their order; None if they are not known."""
    ordered: bool = False
    """Whether the classes of a classification are grades, from the lowest to the highest."""

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values; keys of newer versions are left out where they say nothing."""
        content = asdict(self)
        return {key: value for key, value in content.items() if value or key not in ("names", "ordered")}


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and deviation of one modality's features over the valid time steps of the training split."""

    mean: list[float]
    std: list[float]
    """Standard deviation; 1 for a constant feature."""
    steps: int


@dataclass(frozen=True, kw_only=True)
class HashesEntry:
    """The file of sample hashes beside a manifest; see `shards.sample_hashes`."""

    name: str
    version: int
    bytes: int
    """Size of the file."""
    directory_bytes: int
    """Size of its directory, which comes first."""
    sha256: str
    """Of the directory, whose checksums cover the rest."""
