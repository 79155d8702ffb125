"""The fusion model: `build_model` makes it, `IVROutput` is what its forward returns."""

from __future__ import annotations

from ivr_dist.config import ModelConfig
from ivr_dist.model.ivr import IVRModel
from ivr_dist.model.spec import IVROutput, ModelSpec

__all__ = ["IVRModel", "IVROutput", "ModelSpec", "build_model"]


def build_model(config: ModelConfig, spec: ModelSpec) -> IVRModel:
    """A model with fresh weights, drawn from torch's global generator, but for a pretrained text encoder's.

    Raises:
        ConfigError: The pretrained text encoder cannot be used.
    """
    return IVRModel(config, spec)
