"""Built-in callbacks, and one from outside the package, fulfill the contract."""

from __future__ import annotations

from pathlib import Path

from ivr_dist.common.dotted_path import ClassReference
from ivr_dist.run.events import Event
from ivr_dist.run.ledger import LedgerWriter
from ivr_dist.run.paths import AUDIT, HISTORY
from ivr_dist.testing.callbacks import CallbackContract
from ivr_dist.training.callbacks.base import Callback
from ivr_dist.training.callbacks.event_files import TensorBoard
from ivr_dist.training.callbacks.ledgers import AuditLedger, History
from ivr_dist.training.callbacks.progress import ProgressLine
from ivr_dist.training.callbacks.registry import GuardedCallback
from ivr_dist.training.callbacks.tensorboard import TensorBoardCurves
from tests.extension_parts import Recorder


class Silent:
    def emit(self, event: Event) -> None: ...

    def stop_requested(self) -> bool:
        return False


class TestAuditLedger(CallbackContract):
    def make(self, folder: Path) -> Callback:
        return AuditLedger(LedgerWriter(str(folder), AUDIT, 1, 0))


class TestHistory(CallbackContract):
    def make(self, folder: Path) -> Callback:
        return History(LedgerWriter(str(folder), HISTORY, 1, 0))


class TestProgressLine(CallbackContract):
    def make(self, folder: Path) -> Callback:
        return ProgressLine(Silent(), total_steps=3, period_s=0.0)


class TestTensorBoardCurves(CallbackContract):
    def make(self, folder: Path) -> Callback:
        return TensorBoardCurves(TensorBoard(str(folder), 1, lambda note: None), every=1)


class TestFromOutside(CallbackContract):
    def make(self, folder: Path) -> Callback:
        return Recorder(str(folder))


class TestGuarded(CallbackContract):
    def make(self, folder: Path) -> Callback:
        return GuardedCallback(Recorder(str(folder)), ClassReference("a:B", "run.callbacks[0]"))
