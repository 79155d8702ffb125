"""Early stopping counts evaluations without an improvement of the monitored metric."""

from __future__ import annotations

import pytest

from ivr_dist.checkpoint.state import Progress
from ivr_dist.training.early_stopping import EarlyStopping


def after(stopping: EarlyStopping, *values: float | None) -> Progress:
    progress = Progress(step=7)
    for number, value in enumerate(values, 1):
        progress = stopping.update(progress, value, f"checkpoint {number}")
    return progress


@pytest.mark.parametrize(
    ("monitor", "values", "best", "stale"),
    [
        ("synth/mae", (0.9, 0.7, 0.8), 2, 1),
        ("synth/corr", (0.1, 0.7, 0.8), 3, 0),
        ("synth/mae", (0.9, 0.9, 0.9), 1, 2),
        ("synth/mae", (None, 0.9, None, None), 2, 2),
    ],
)
def test_the_best_value_and_its_checkpoint_are_kept(
    monitor: str, values: tuple[float | None, ...], best: int, stale: int
) -> None:
    progress = after(EarlyStopping(monitor), *values)
    assert progress == Progress(step=7, best=values[best - 1], best_checkpoint=f"checkpoint {best}", stale=stale)


def test_an_undefined_metric_is_never_the_best() -> None:
    assert after(EarlyStopping("synth/corr", 2), None, None) == Progress(step=7, stale=2)


def test_patience_ends_after_as_many_evaluations_without_improvement() -> None:
    stopping = EarlyStopping("synth/mae", patience=2)
    assert not stopping.is_exhausted(after(stopping, 0.9, 1.0))
    assert stopping.is_exhausted(after(stopping, 0.9, 1.0, 0.95))
    assert not stopping.is_exhausted(after(stopping, 0.9, 1.0, 0.8, 0.85))
    assert not EarlyStopping("synth/mae").is_exhausted(after(stopping, *[1.0] * 50))
