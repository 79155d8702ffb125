"""Checkpoint state: `state.json` as a frozen dataclass, decoded strictly.

Everything a run needs besides tensors: progress, data position, config, and the inputs to rebuild the model and its
batches. A key that is missing or of a wrong type is refused with its path; unknown keys are ignored, and keys
that older versions did not write have defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ivr_dist.checkpoint.part_manifest import FORMAT
from ivr_dist.checkpoint.pool_state import PoolState
from ivr_dist.common.decoder import AnyFloat, DecodeError, decode
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.pool_cursor import PoolCursor, decode_pool_cursor
from ivr_dist.shards.specs import TaskSpec

_PROGRESS = "counters"
"""Key of the progress on disk."""


@dataclass(frozen=True)
class Progress:
    """Progress of training; part of every checkpoint."""

    step: int = 0
    """Completed optimizer steps."""
    samples: int = 0
    """Samples trained on."""
    best: float | None = None
    """Best value of the monitored metric."""
    best_checkpoint: str | None = None
    """Name of the checkpoint with this value."""
    stale: int = 0
    """Evaluations since then."""
    skipped: int = 0
    """Samples of the running epoch that could not be read."""
    faults: int = 0
    """Steps whose update was discarded: loss or gradient not finite, or a loss spike."""


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """`state.json` of one checkpoint."""

    format: int = FORMAT
    step: int
    """Completed optimizer steps."""
    cursor: DataCursor | PoolCursor | None = None
    """Position of the next step in the data; None in a checkpoint that holds weights only."""
    progress: Progress | None = None
    """None in a checkpoint that holds weights only."""
    rng: Mapping[str, int] = field(default_factory=dict)
    """`seed`: dropout is drawn from generators seeded by (seed, step, rank), so it is the whole random state."""
    metrics: Mapping[str, Mapping[str, AnyFloat | None]] = field(default_factory=dict)
    """Last scores by split and metric; None where a metric is not defined."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the attempt by the parts of `run.goodput`."""
    config: Mapping[str, Any]
    """The run's config as plain values; `weights.stored_config` decodes it."""
    model: Mapping[str, Any]
    """Section `model` of the config without `size`; equal for checkpoints of the same model."""
    features: Mapping[str, Sequence[str | int]]
    """By modality, in the model's order: kind and width."""
    tasks: Mapping[str, TaskSpec]
    statistics: Mapping[str, Sequence[Sequence[float]]]
    """By standardized modality: mean [D] and standard deviation [D]."""
    manifests: Mapping[str, str] = field(default_factory=dict)
    """Manifest ids by split; empty in checkpoints of older versions."""
    world: int = 1
    """Workers that wrote it."""
    stage: int = 0
    """Their ZeRO stage."""
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Shape of each parameter and buffer."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """By modality: the name of its feature set, where there is one corpus; empty in checkpoints of older versions."""
    pool: PoolState | None = None
    """The corpora, where there are several: then `tasks` are heads, and statistics are by corpus."""
    classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Classes outside the package and their versions, by the key of the config that names them."""

    def __post_init__(self) -> None:
        """Check constraints beyond the types.

        Raises:
            ValueError: A value is out of range, or two contradict each other.
        """
        if not isinstance(self.model.get("preset"), str):
            raise ValueError("model: preset is missing")
        for name, feature in self.features.items():
            if [type(part) for part in feature] != [str, int] or int(feature[1]) < 1:
                raise ValueError(f"features.{name}: not a kind and a width")
        for name, parts in self.statistics.items():
            if len(parts) != 2 or len(parts[0]) != len(parts[1]):
                raise ValueError(f"statistics.{name}: not a mean and a standard deviation of the same width")
        if self.progress is not None and self.progress.step != self.step:
            raise ValueError(f"{_PROGRESS}.step: {self.progress.step}, in a checkpoint of step {self.step}")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored; its order of keys is part of the format."""
        progress = None if self.progress is None else asdict(self.progress)
        content: dict[str, Any] = {
            "format": self.format,
            "step": self.step,
            "cursor": None if self.cursor is None else self.cursor.to_json(),
            _PROGRESS: progress,
            "rng": self.rng,
            "metrics": self.metrics,
            "spent": self.spent,
            "config": self.config,
            "model": self.model,
            "features": self.features,
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
            "statistics": self.statistics,
            "manifests": self.manifests,
            "world": self.world,
            "stage": self.stage,
            "shapes": self.shapes,
            "classes": self.classes,
            "sets": self.sets,
            "pool": None if self.pool is None else self.pool.to_json(),
        }
        # Keys that only a run writes, and the cursor of an imported model, are left out where there is nothing.
        optional = ("cursor", _PROGRESS, "rng", "spent", "manifests", "classes", "sets", "pool")
        return {name: value for name, value in content.items() if value or name not in optional}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CheckpointState:
        """Read the stored JSON object.

        Raises:
            DecodeError: A key is missing or of a wrong type; the text names it.
        """
        content = {item.name: value[item.name] for item in fields(cls) if item.name in value}
        content.pop("progress", None)
        if _PROGRESS in value:
            content["progress"] = value[_PROGRESS]
        cursor = content.pop("cursor", None)
        try:
            return replace(decode(cls, content), cursor=None if cursor is None else _cursor(cursor))
        except DecodeError as error:
            keys = (_PROGRESS, *error.keys[1:]) if error.keys[:1] == ("progress",) else error.keys
            raise DecodeError(error.what, keys, error.reason, error.choices) from None


def _cursor(value: Any) -> DataCursor | PoolCursor:
    """Decode the position in the data; every field must be there, or it would be read as the start of the data."""
    try:
        if isinstance(value, Mapping) and "version" in value:
            return decode_pool_cursor(value)
        excluded = {"excluded": ""} if isinstance(value, Mapping) else {}
        return decode(DataCursor, {**excluded, **value} if excluded else value, complete=True)
    except DecodeError as error:
        raise error.below("cursor") from None
