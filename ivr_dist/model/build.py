"""The fusion model: `build_model` makes it, `IVROutput` is what its forward returns."""

from __future__ import annotations

from torch import nn

from ivr_dist.config import LossConfig, ModelConfig
from ivr_dist.model.ivr import IVRModel
from ivr_dist.model.release import ReleaseModel
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.model.transformer import TransformerLayer
from ivr_dist.model.word_encoder import WordEncoder

__all__ = ["IVRModel", "IVROutput", "ModelSpec", "ReleaseModel", "build_model", "recompute_layers"]


def build_model(config: ModelConfig, spec: ModelSpec, loss: LossConfig | None = None) -> IVRModel | ReleaseModel:
    """A model with fresh weights, drawn from torch's global generator, but for a pretrained text encoder's.

    Args:
        config: The preset and its sizes.
        spec: The data it is for.
        loss: What the losses ask of the model: `adversary.reverse` and `reconstruction.per`.

    Raises:
        ConfigError: The pretrained text encoder cannot be used.
    """
    return (ReleaseModel if config.preset == "release" else IVRModel)(config, spec, loss or LossConfig())


def recompute_layers(model: nn.Module) -> None:
    """Have encoder layers, a pretrained encoder's too, keep their inputs only and compute the rest twice."""
    for part in model.modules():
        if isinstance(part, TransformerLayer):
            part.recompute = True
        if isinstance(part, WordEncoder):
            part.recompute()
