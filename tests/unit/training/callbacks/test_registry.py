"""`run.callbacks`: callbacks from outside the package are checked when built and guarded while they run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ivr_dist.config import Config, RunConfig
from ivr_dist.errors import ConfigError, IvrError
from ivr_dist.testing.callbacks import step_report
from ivr_dist.training.callbacks.base import Callback, RunInfo, StepReport
from ivr_dist.training.callbacks.registry import HOOKS, GuardedCallback, configured_callbacks
from tests.extension_parts import Misspelt

PARTS, HERE = "tests.extension_parts", __name__


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under pytest's import mode this module is not in `sys.modules` by its name."""
    module = ModuleType(__name__)
    vars(module).update(globals())
    monkeypatch.setitem(sys.modules, __name__, module)


class Exits(Callback):
    def on_step(self, report: StepReport) -> None:
        raise SystemExit(0)


class Saves(Callback):
    def __init__(self, durable: object = None) -> None:
        self.durable = durable

    def on_before_checkpoint(self) -> Callable[[], None] | None:
        return self.durable  # type: ignore[return-value]


class Waits(Callback):
    async def on_step(self, report: StepReport) -> None: ...  # type: ignore[override]


class TakesNothing(Callback):
    def on_step(self) -> None: ...  # type: ignore[override]


class Inherits(Misspelt): ...


def config(*callbacks: object) -> Config:
    return Config(run=RunConfig(callbacks=list(callbacks)))  # type: ignore[arg-type]


def test_each_class_is_made_with_its_arguments(tmp_path: Path) -> None:
    made = configured_callbacks(config({"class": f"{PARTS}:Recorder", "folder": str(tmp_path)}))
    assert len(made) == 1
    made[0].on_start(RunInfo("runs/x", attempt=2, rank=1, world=2, step=5, total_steps=9))
    made[0].on_step(step_report(6))
    made[0].on_close()
    assert (tmp_path / "calls-1.txt").read_text().splitlines() == ["start 2 5 of 9 on 2", "step 6 0.0", "close"]


@pytest.mark.parametrize(
    ("callback", "error"),
    [
        (
            f"{PARTS}:Misspelt",
            f"{PARTS}:Misspelt: nothing calls a hook on_stepp (run.callbacks[0]); did you mean",
        ),
        (f"{HERE}:Inherits", f"{HERE}:Inherits: nothing calls a hook on_stepp (run.callbacks[0]); did you mean"),
        (f"{HERE}:Waits", f"{HERE}:Waits: on_step is a coroutine, which nothing awaits (run.callbacks[0]); see docs"),
        (f"{HERE}:TakesNothing", f"{HERE}:TakesNothing: on_step cannot be called with 1 argument (run.callbacks[0]); "),
        (f"{PARTS}:Contrast", f"{PARTS}:Contrast is not a callback (run.callbacks[0]); derive it from ivr_dist"),
        (f"{PARTS}:Recorder", f"{PARTS}:Recorder cannot be made: missing a required argument: 'folder' (run.callback"),
    ],
)
def test_invalid_callback_classes_are_refused(callback: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured_callbacks(config(callback))
    assert str(caught.value).startswith(error)


def test_an_exception_in_a_hook_names_the_callback() -> None:
    (broken,) = configured_callbacks(config(f"{PARTS}:Broken"))
    broken.on_close()
    with pytest.raises(IvrError) as caught:
        broken.on_step(step_report(1))
    assert str(caught.value) == (
        f"callback {PARTS}:Broken failed in on_step: ZeroDivisionError: division by zero (run.callbacks[0]); "
        "correct it, or remove it from run.callbacks; the same command continues the run"
    )


def test_sys_exit_in_a_hook_does_not_end_the_command_as_if_it_had_succeeded() -> None:
    (exits,) = configured_callbacks(config(f"{HERE}:Exits"))
    with pytest.raises(IvrError, match=r"Exits failed in on_step: SystemExit: 0 \(run\.callbacks\[0\]\)"):
        exits.on_step(step_report(1))


def test_what_a_callback_returns_for_a_checkpoint_is_guarded_too() -> None:
    (saves,) = configured_callbacks(config(f"{HERE}:Saves"))
    assert saves.on_before_checkpoint() is None
    (saves,) = configured_callbacks(config({"class": f"{HERE}:Saves", "durable": 3}))
    with pytest.raises(IvrError, match="Saves failed in on_before_checkpoint: it returned int, neither a function nor"):
        saves.on_before_checkpoint()

    def fails() -> None:
        raise ValueError("no such luck")

    (saves,) = configured_callbacks(config({"class": f"{HERE}:Saves", "durable": fails}))
    durable = saves.on_before_checkpoint()
    assert durable is not None
    with pytest.raises(IvrError, match="Saves failed in on_before_checkpoint: ValueError: no such luck"):
        durable()


def test_a_callback_is_closed_once_also_where_training_never_begins(tmp_path: Path) -> None:
    made = configured_callbacks(config({"class": f"{PARTS}:Recorder", "folder": str(tmp_path)}))
    for callback in made:
        callback.on_close()
        callback.on_close()
    assert (tmp_path / "calls--1.txt").read_text() == "close\n"


def test_every_hook_is_guarded() -> None:
    assert all(name in vars(GuardedCallback) for name in HOOKS)
    assert set(HOOKS) == {name for name in dir(Callback) if name.startswith("on_")}
