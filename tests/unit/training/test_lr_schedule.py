"""Learning rate and regularizer weight by step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.training.lr_schedule import lr_at, svr_weight_at

SCHEDULES = ("cosine", "linear", "constant")


def test_warmup_is_a_ramp_that_starts_above_0_and_ends_at_the_peak() -> None:
    rates = [lr_at(step, 100, 4, 2.0, "cosine", 0.0) for step in range(5)]
    assert rates == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_cosine_closed_form() -> None:
    for step in range(10, 110):
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 100)) / 2
        assert lr_at(step, 110, 10, 1.0, "cosine", 0.1) == pytest.approx(expected, rel=1e-12)


def test_linear_and_constant_halfway() -> None:
    assert lr_at(60, 110, 10, 1.0, "linear", 0.2) == pytest.approx(0.6)
    assert lr_at(109, 110, 10, 1.0, "constant", 0.2) == 1.0


def test_unknown_schedule() -> None:
    with pytest.raises(ValueError, match="cosine, linear, constant"):
        lr_at(5, 10, 0, 1.0, "step", 0.0)


@given(
    total=st.integers(1, 500),
    share=st.floats(0, 1),
    schedule=st.sampled_from(SCHEDULES),
    min_ratio=st.floats(0, 1),
)
def test_rates_rise_then_never_rise_again(total: int, share: float, schedule: str, min_ratio: float) -> None:
    warmup = math.ceil(share * total)
    rates = [lr_at(step, total, warmup, 1.0, schedule, min_ratio) for step in range(total + 3)]
    assert all(0 < rate <= 1.0 for rate in rates[:total])
    assert rates[:warmup] == sorted(rates[:warmup])
    assert all(later <= earlier + 1e-15 for earlier, later in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert rates[total] == rates[total + 2]
    if schedule != "constant":
        assert rates[total] == pytest.approx(min_ratio, abs=1e-12)


def test_svr_weight_rises_from_0_and_falls_to_0() -> None:
    assert [svr_weight_at(step, 12, 4, 0, 2.0) for step in (0, 1, 2, 3, 4, 11)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert [svr_weight_at(step, 12, 0, 4, 2.0) for step in (0, 7, 8, 9, 10, 11)] == [2.0, 2.0, 2.0, 1.5, 1.0, 0.5]


@given(total=st.integers(1, 300), rise=st.floats(0, 1), fall=st.floats(0, 1))
def test_svr_weight_is_a_share_of_the_full_one_and_full_between(total: int, rise: float, fall: float) -> None:
    warmup = math.ceil(rise * total)
    decay = math.floor(fall * (total - warmup))
    weights = [svr_weight_at(step, total, warmup, decay, 3.0) for step in range(total)]
    assert all(0 <= weight <= 3.0 for weight in weights)
    assert all(weight == 3.0 for weight in weights[warmup : total - decay])
    assert weights[:warmup] == sorted(weights[:warmup])
    assert weights[total - decay :] == sorted(weights[total - decay :], reverse=True)
