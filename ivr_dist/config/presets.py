"""Presets and sizes: values that replace the defaults, and the values that the released model requires.

Their precedence is above the defaults of `schema` and below the user's values: `model.preset: release`
alone selects the authors' released model with its losses and optimizer, `model.size: large` a wider and deeper `ivr`
(docs/method.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ivr_dist.config.declaration import Modality
from ivr_dist.config.schema import TrainConfig

RELEASE_FIXED: Mapping[str, Any] = {
    "model.input_dropout": 0.0,
    "model.feature_dropout": 0.0,
    "model.modality_dropout": 0.0,
    "model.text.kind": "none",
    "model.text.pretrained": "",
    "model.audio.kind": "transformer",
    "model.audio.layers": 1,
    "model.vision.kind": "transformer",
    "model.vision.layers": 1,
    "model.fusion.layers": 1,
    "model.fusion.content": "private",
    "model.fusion.gate": "hard",
    "model.fusion.positions": True,
    "model.fusion.pooling": "mean",
}
"""Values that the released model requires, by key; others are refused, since it does not implement them."""

_RELEASE: Mapping[str, Any] = {
    **RELEASE_FIXED,
    "data.standardize": [],
    "model.audio.heads": 2,
    "model.vision.heads": 1,
    "loss.adversary.reverse": "both",
    "loss.reconstruction.per": "pooled",
    "svr.kind": "js",
    "svr.over": "batch",
    "svr.modalities": ["vision"],
    "train.epochs": 50.0,
    "train.lr": 1.7e-5,
    "train.weight_decay": 0.0,
    "train.schedule": "constant",
    "train.warmup": 0.0,
    "train.grad_clip": 0.0,
}


def _size(hidden: int, layers: int, heads: int) -> Mapping[str, Any]:
    parts = [*get_args(Modality), "fusion"]
    depth = {f"model.{part}.layers": layers for part in parts} | {f"model.{part}.heads": heads for part in parts}
    return {"model.hidden": hidden, **depth}


_SIZES: Mapping[str, Mapping[str, Any]] = {"large": _size(512, 2, 8), "xl": _size(1024, 4, 16)}


def preset_values(user_values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the selected preset and size, by dotted key; they replace the defaults.

    Args:
        user_values: The user's values by dotted key, including `model.preset` and `model.size` if they are set.
    """
    if user_values.get("model.preset") != "release":
        return dict(_SIZES.get(user_values.get("model.size", "base"), {}))
    # The release computes its batch statistics over the whole batch, at any size.
    return {**_RELEASE, "loss.consistency.group": user_values.get("train.global_batch", TrainConfig().global_batch)}
