"""Parameter groups: learning rates and weight decay by parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ivr_dist.model.text.word_encoder import pretrained_parameters


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters by learning rate, and into those that decay and those that do not.

    A pretrained encoder's parameters have a separate rate. Weight decay applies to matrices only, not to gains, biases
    and other vectors. Call it before ZeRO partitions the parameters, since that hides their shapes.

    Args:
        model: The unpartitioned model.
        weight_decay: AdamW's decoupled decay of the matrices.

    Returns:
        Groups with at least one parameter, each with a `name` from which `rate_of` derives its learning rate.
    """
    own = pretrained_parameters(model)
    groups = []
    for rate in ("main", "text"):
        trainable = [p for p in model.parameters() if p.requires_grad and (p in own) == (rate == "text")]
        decayed = [parameter for parameter in trainable if parameter.dim() >= 2]
        plain = [parameter for parameter in trainable if parameter.dim() < 2]
        prefix = "" if rate == "main" else f"{rate}_"
        groups.append({"params": decayed, "weight_decay": weight_decay, "name": f"{prefix}decay"})
        groups.append({"params": plain, "weight_decay": 0.0, "name": f"{prefix}no_decay"})
    return [group for group in groups if group["params"]]


def rate_of(group: Mapping[str, Any]) -> str:
    """Return the name of a group's learning rate: `muon`, `text` or `main`.

    DeepSpeed splits groups in two for Muon, and appends a suffix to the name of each.
    """
    if group.get("use_muon"):
        return "muon"
    return "text" if str(group["name"]).startswith("text_") else "main"
