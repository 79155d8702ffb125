"""Threads by idle processors, within the quota of the container; a setting is used as it is."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.runtime.threads import choose, from_idle_processors


@given(st.integers(1, 256), st.floats(0, 1), st.none() | st.floats(0.05, 300))
def test_no_more_than_are_free_and_at_least_one(allowed: int, share: float, quota: float | None) -> None:
    free = share * allowed
    threads = from_idle_processors(allowed, free, quota).threads
    assert 1 <= threads <= allowed
    assert threads == 1 or threads <= free + 0.3
    assert threads == 1 or quota is None or threads <= quota + 0.3


@pytest.mark.parametrize(
    ("allowed", "free", "quota", "threads"),
    [
        (2, 2.0, None, 2),
        (2, 1.72, None, 2),
        (2, 1.2, None, 1),
        (2, 0.0, None, 1),
        (64, 63.0, 2.0, 2),
        (64, 20.5, None, 20),
    ],
)
def test_examples(allowed: int, free: float, quota: float | None, threads: int) -> None:
    assert from_idle_processors(allowed, free, quota).threads == threads


def test_a_setting_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose(None).threads == 3
    assert choose(5).threads == 5
    assert choose(5).why == "run.threads"


def test_idle_processors_are_measured_without_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    chosen = choose(None)
    assert 1 <= chosen.threads <= len(os.sched_getaffinity(0))
    assert "processors are idle" in chosen.why
