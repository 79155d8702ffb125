"""The config of a run: all keys in `schema`; reading, validation, reference and output in the other modules."""

from __future__ import annotations

from ivr_dist.config.schema import (
    AdversaryConfig,
    CheckpointConfig,
    Config,
    ConsistencyConfig,
    DataConfig,
    EncoderConfig,
    FusionConfig,
    LogConfig,
    LossConfig,
    Modality,
    ModelConfig,
    ReconstructionConfig,
    RunConfig,
    SvrConfig,
    SvrWeightConfig,
    TextConfig,
    TrainConfig,
    ZeroConfig,
)

__all__ = [
    "AdversaryConfig",
    "CheckpointConfig",
    "Config",
    "ConsistencyConfig",
    "DataConfig",
    "EncoderConfig",
    "FusionConfig",
    "LogConfig",
    "LossConfig",
    "Modality",
    "ModelConfig",
    "ReconstructionConfig",
    "RunConfig",
    "SvrConfig",
    "SvrWeightConfig",
    "TextConfig",
    "TrainConfig",
    "ZeroConfig",
]
