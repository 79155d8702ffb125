"""Distributed training of invariant-representation fusion models with sequential variation regularization.

The public API is what `__all__` lists. Names are imported when they are first used, so that `import ivr_dist` takes
milliseconds: see `ivr_dist.api` for the functions, `ivr_dist.errors` for the hierarchy of errors.
"""

from __future__ import annotations

# Type checkers take this name for true; importing `typing` would take longer than all the rest.
TYPE_CHECKING = False
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
    from ivr_dist.inspection.audit_report import AuditReport
    from ivr_dist.inspection.packed_split import PackedSplit, Sample
    from ivr_dist.inspection.profile import SplitProfile
    from ivr_dist.inspection.run_view import Checkpoint, Run
    from ivr_dist.inspection.status import RunStatus
    from ivr_dist.run.events import Console
    from ivr_dist.run.results import Result
    from ivr_dist.training.callbacks.base import Callback, StepReport

__version__ = "0.2.0"

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
    "AuditReport": "ivr_dist.inspection.audit_report",
    "Callback": "ivr_dist.training.callbacks.base",
    "Checkpoint": "ivr_dist.inspection.run_view",
    "Config": "ivr_dist.config",
    "Console": "ivr_dist.run.events",
    "Model": "ivr_dist.inference.load",
    "PackedSplit": "ivr_dist.inspection.packed_split",
    "PredictionTable": "ivr_dist.inference.predict",
    "Result": "ivr_dist.run.results",
    "Run": "ivr_dist.inspection.run_view",
    "RunStatus": "ivr_dist.inspection.status",
    "Sample": "ivr_dist.inspection.packed_split",
    "SplitProfile": "ivr_dist.inspection.profile",
    "StepReport": "ivr_dist.training.callbacks.base",
}
"""Where each public name is defined."""

__all__ = [
    "AuditReport",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "CheckpointMismatchError",
    "Config",
    "ConfigError",
    "Console",
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
    "RunStatus",
    "Sample",
    "SplitProfile",
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


if not TYPE_CHECKING:
    # Hidden from type checkers, so that they report names that do not exist.
    def __getattr__(name: str) -> object:
        """Import a public name on its first use."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
