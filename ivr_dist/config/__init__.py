"""The config of a run: all keys in `schema`; reading, validation, reference and output in the other modules."""

from __future__ import annotations

from ivr_dist.config.data_schema import CorpusConfig, DataConfig, MixConfig
from ivr_dist.config.declaration import Modality
from ivr_dist.config.schema import (
    AdversaryConfig,
    CheckpointConfig,
    Config,
    ConsistencyConfig,
    EncoderConfig,
    EvalConfig,
    FusionConfig,
    LogConfig,
    LossConfig,
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
    "CorpusConfig",
    "DataConfig",
    "EncoderConfig",
    "EvalConfig",
    "FusionConfig",
    "LogConfig",
    "LossConfig",
    "MixConfig",
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
