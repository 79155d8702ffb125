"""The fusion model: `build_model` makes it, `IVROutput` is what its forward returns."""

from __future__ import annotations

from typing import Literal

from ivr_dist.config import ModelConfig
from ivr_dist.model.ivr import IVRModel
from ivr_dist.model.release import ReleaseModel
from ivr_dist.model.spec import IVROutput, ModelSpec

__all__ = ["IVRModel", "IVROutput", "ModelSpec", "ReleaseModel", "build_model"]


def build_model(
    config: ModelConfig, spec: ModelSpec, reverse: Literal["shared", "both"] = "shared"
) -> IVRModel | ReleaseModel:
    """A model with fresh weights, drawn from torch's global generator, but for a pretrained text encoder's.

    Args:
        config: The preset and its sizes.
        spec: The data it is for.
        reverse: `loss.adversary.reverse`, which decides a gradient inside the model.

    Raises:
        ConfigError: The pretrained text encoder cannot be used.
    """
    return (ReleaseModel if config.preset == "release" else IVRModel)(config, spec, reverse)
