"""The config of a run: every key, typed and documented in `schema`; how it is read, checked and written beside it."""

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
