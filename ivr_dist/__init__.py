"""Distributed training of invariant-representation fusion models with sequential variation regularization.

The public API is what `__all__` lists. Names are imported when they are first used, so that `import ivr_dist` takes
milliseconds: see `ivr_dist.api` for the functions, `ivr_dist.errors` for the hierarchy of errors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ivr_dist.api import evaluate, load, load_config, open_run, open_split, predict, train
    from ivr_dist.config import Config
    from ivr_dist.errors import (
        CheckpointError,
        CheckpointMismatchError,
        ConfigError,
        CorruptDataError,
        DataError,
        DivergedError,
        FaultsError,
        IvrError,
        StorageError,
        SupersededError,
        UserError,
        WorkerError,
    )
    from ivr_dist.inference.load import Model
    from ivr_dist.inference.predict import PredictionTable
    from ivr_dist.inspection.packed_split import PackedSplit, Sample
    from ivr_dist.inspection.run_view import Checkpoint, Run
    from ivr_dist.run.results import Result
    from ivr_dist.training.callbacks.base import Callback, StepReport

__version__ = "0.1.0"

_ERRORS = (
    "CheckpointError",
    "CheckpointMismatchError",
    "ConfigError",
    "CorruptDataError",
    "DataError",
    "DivergedError",
    "FaultsError",
    "IvrError",
    "StorageError",
    "SupersededError",
    "UserError",
    "WorkerError",
)
_MODULES = {
    **dict.fromkeys(("evaluate", "load", "load_config", "open_run", "open_split", "predict", "train"), "ivr_dist.api"),
    **dict.fromkeys(_ERRORS, "ivr_dist.errors"),
    "Callback": "ivr_dist.training.callbacks.base",
    "Checkpoint": "ivr_dist.inspection.run_view",
    "Config": "ivr_dist.config",
    "Model": "ivr_dist.inference.load",
    "PackedSplit": "ivr_dist.inspection.packed_split",
    "PredictionTable": "ivr_dist.inference.predict",
    "Result": "ivr_dist.run.results",
    "Run": "ivr_dist.inspection.run_view",
    "Sample": "ivr_dist.inspection.packed_split",
    "StepReport": "ivr_dist.training.callbacks.base",
}
"""Where each public name is defined."""

__all__ = [
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "CheckpointMismatchError",
    "Config",
    "ConfigError",
    "CorruptDataError",
    "DataError",
    "DivergedError",
    "FaultsError",
    "IvrError",
    "Model",
    "PackedSplit",
    "PredictionTable",
    "Result",
    "Run",
    "Sample",
    "StepReport",
    "StorageError",
    "SupersededError",
    "UserError",
    "WorkerError",
    "__version__",
    "evaluate",
    "load",
    "load_config",
    "open_run",
    "open_split",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
