"""Running mean and standard deviation."""

from __future__ import annotations

import json
import pickle
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.shards import running_statistics
from ivr_dist.shards.running_statistics import RunningStatistics


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1.0, 1e5]),
    st.sampled_from([3, 12, 22, 1 << 17]),
)
def test_any_division_gives_the_two_pass_result(lengths: list[int], seed: int, shift: float, buffered: int) -> None:
    """However many values are buffered before they are summed, also across a pickle."""
    random = np.random.default_rng(seed)
    parts = [(random.standard_normal((length, 3)) + shift).astype(np.float32) for length in lengths]
    running, halves = RunningStatistics(3), [RunningStatistics(3), RunningStatistics(3)]
    with patch.object(running_statistics, "_BUFFERED", buffered):
        for number, part in enumerate(parts):
            running.add(part)
            halves[number % 2].add(part)
        halves = pickle.loads(pickle.dumps(halves))
        halves[0].merge(halves[1])
    every = np.concatenate(parts).astype(np.float64)
    for found in (running, halves[0]):
        assert found.steps == len(every)
        if len(every):
            deviation = every.std(axis=0)
            assert np.allclose(found.mean, every.mean(axis=0), rtol=1e-12, atol=1e-12)
            constant = deviation <= np.abs(every.mean(axis=0)) * np.finfo(np.float32).eps
            assert np.allclose(found.deviation(), np.where(constant, 1, deviation), rtol=1e-6)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2)))
def test_json_loses_nothing(steps: list[list[float]]) -> None:
    running = RunningStatistics(2)
    running.add(np.array(steps, np.float32).reshape(-1, 2))
    found = RunningStatistics.from_json(json.loads(json.dumps(running.to_json())))
    assert found.steps == running.steps
    assert found.mean.tobytes() == running.mean.tobytes()
    for both in (found, running):
        both.add(np.array([[1, 2]], np.float32))
    assert found.deviation().tobytes() == running.deviation().tobytes()


def test_constant_features_are_divided_by_one() -> None:
    running = RunningStatistics(3)
    for _ in range(50):
        running.add(
            np.array([[0.1, 0.0, 1e9], [0.1, 0.0, 1e9]], np.float32) + np.array([[0, 0, 0], [0, 1, 0]], np.float32)
        )
    assert running.deviation().tolist() == [1.0, 0.5, 1.0]


def test_nothing_seen_changes_nothing() -> None:
    running = RunningStatistics(2)
    running.add(np.zeros((0, 2), np.float32))
    assert (running.steps, running.mean.tolist(), running.deviation().tolist()) == (0, [0, 0], [1, 1])
