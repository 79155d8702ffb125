"""Which parameters share optimizer settings."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not.

    Weight decay pulls matrices only; gains, biases and other vectors have no scale to shrink. Call it before ZeRO
    partitions the parameters, since that hides their shapes.

    Args:
        model: The unpartitioned model.
        weight_decay: AdamW's decoupled decay of the matrices.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.dim() >= 2]
    plain = [parameter for parameter in trainable if parameter.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": weight_decay, "name": "decay"},
        {"params": plain, "weight_decay": 0.0, "name": "no_decay"},
    ]
    return [group for group in groups if group["params"]]
