"""`run.callbacks`: callbacks from outside the package are checked when built and guarded while they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivr_dist.config import Config, RunConfig
from ivr_dist.errors import ConfigError, IvrError
from ivr_dist.testing.callbacks import step_report
from ivr_dist.training.callbacks.base import Callback, RunInfo
from ivr_dist.training.callbacks.registry import HOOKS, GuardedCallback, configured_callbacks

PARTS = "tests.extension_parts"


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


def test_every_hook_is_guarded() -> None:
    assert all(name in vars(GuardedCallback) for name in HOOKS)
    assert set(HOOKS) == {name for name in dir(Callback) if name.startswith("on_")}
