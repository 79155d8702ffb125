"""What a preset and a size set where the user says nothing, and what a model cannot do otherwise.

Their values lie between the defaults of `config.py` and the user's own: `model.preset: release` alone in a config
gives the authors' released model, its losses and its optimiser, `model.size: large` a wider and deeper preset `ivr`
(docs/method.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ivr_dist.config.schema import Modality, TrainConfig

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
"""What the released model is, by key: other values are refused, since it has no parts for them."""

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


def preset_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key that preset and size put in place of the defaults.

    Args:
        given: The user's own values by dotted key, `model.preset` and `model.size` among them if they chose one.
    """
    if given.get("model.preset") != "release":
        return dict(_SIZES.get(given.get("model.size", "base"), {}))
    # The release takes its batch statistics over the batch, whatever its size.
    return {**_RELEASE, "loss.consistency.group": given.get("train.global_batch", TrainConfig().global_batch)}
