"""Contract of callbacks (`run.callbacks`)."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from ivr_dist.training.callbacks.base import Callback, RunInfo, StepReport
from ivr_dist.training.callbacks.registry import HOOKS


def step_report(step: int, *, fault: str = "") -> StepReport:
    """The report of a synthetic step; with a fault, of one that did not update the weights."""
    return StepReport(
        step=step,
        epoch=0,
        epoch_progress=step / 10,
        loss=1.0 / step,
        terms={"task/sentiment": 1.0 / step},
        lr=1e-3,
        grad_norm=0.5,
        samples=0 if fault else 8,
        seconds=0.1,
        wait_s=0.01,
        svr={},
        keys=() if fault else ("sample-0", "sample-1"),
        skipped=("sample-0", "sample-1") if fault else (),
        fault=fault,
    )


class CallbackContract(ABC):
    """Tests of a callback: derive a class `TestMine` from it and implement `make`."""

    @abstractmethod
    def make(self, folder: Path) -> Callback:
        """Build the callback as a config would.

        Args:
            folder: An empty folder that is deleted after the test.
        """

    def test_it_is_a_callback_all_of_whose_hooks_are_called(self, tmp_path: Path) -> None:
        """It derives from `Callback`, and no hook is misspelled."""
        callback = self.make(tmp_path)
        assert isinstance(callback, Callback)
        assert [name for name in dir(callback) if name.startswith("on_") and name not in HOOKS] == []

    def test_hooks_run_in_order_on_any_rank(self, tmp_path: Path) -> None:
        """Every hook is called in the order of a run, on the first rank and on another one."""
        for rank in (0, 1):
            folder = tmp_path / f"rank-{rank}"
            folder.mkdir()
            callback = self.make(folder)
            callback.on_start(RunInfo(str(folder), attempt=1, rank=rank, world=2, step=0, total_steps=3))
            callback.on_step(step_report(1))
            callback.on_step(step_report(2, fault="its loss is not finite"))
            callback.on_left_out(3, 0, ["sample-0"])
            # Not all metrics are defined: the correlation of a constant is not.
            callback.on_evaluation("valid", 3, {"corpus/mae": 0.5, "corpus/corr": None}, True)
            self._save(callback)
            callback.on_checkpoint("step-00000003.a01", 0.2, 0.05)
            callback.on_close()

    def test_it_can_be_closed_before_the_first_step(self, tmp_path: Path) -> None:
        """An attempt may end before its first step."""
        callback = self.make(tmp_path)
        callback.on_start(RunInfo(str(tmp_path), attempt=2, rank=0, world=1, step=3, total_steps=3))
        callback.on_close()

    def _save(self, callback: Callback) -> None:
        """Begin a checkpoint; the function that makes its records durable runs on another thread."""
        durable = callback.on_before_checkpoint()
        assert durable is None or callable(durable)
        if durable is not None:
            errors: list[BaseException] = []
            thread = threading.Thread(target=_collecting(durable, errors))
            thread.start()
            thread.join()
            assert errors == []


def _collecting(function: Callable[[], None], errors: list[BaseException]) -> Callable[[], None]:
    """A function that keeps what another one raises."""

    def run() -> None:
        try:
            function()
        except BaseException as error:  # the test asserts that there is none
            errors.append(error)

    return run
