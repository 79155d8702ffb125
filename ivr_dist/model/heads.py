"""Task heads: a prediction for each task from the fused vector of a sample."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ivr_dist.model.numerics import at_least_float32
from ivr_dist.shards.specs import TaskSpec

# A ModuleDict refuses names of its attributes, such as `type`.
_PREFIX = "task_"


class TaskHeads(nn.ModuleDict):
    """A linear layer for each task."""

    def __init__(self, width: int, tasks: Mapping[str, TaskSpec]) -> None:
        super().__init__({_PREFIX + name: nn.Linear(width, task.classes or 1) for name, task in tasks.items()})
        self.regressions = {name for name, task in tasks.items() if task.type == "regression"}

    def forward(self, fused: Tensor) -> dict[str, Tensor]:
        """[B, H] to, by task, [B] for a regression and [B, C] logits for a classification; float32 or wider."""
        scores = {key.removeprefix(_PREFIX): at_least_float32(head(fused)) for key, head in self.items()}
        return {name: score.squeeze(-1) if name in self.regressions else score for name, score in scores.items()}
