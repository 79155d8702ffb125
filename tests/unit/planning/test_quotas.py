"""Quotas of a pool: exact shares, remainders, caps; and the plan that follows from a config."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.config import Config
from ivr_dist.config.corpora import SplitKey
from ivr_dist.config.loading import load_config
from ivr_dist.errors import ConfigError
from ivr_dist.orchestration.preflight import resolved
from ivr_dist.planning.plan import describe, plan_run
from ivr_dist.planning.pool_layout import pool_layout
from ivr_dist.planning.pool_plan import make_pool_plan, pool_delays
from ivr_dist.planning.pool_table import corpus_rows, held_out_notes, pool_notes
from ivr_dist.planning.quotas import capped_quotas, largest_remainders, pass_cap, pool_lanes, share_weights
from ivr_dist.shards.manifest import Manifest
from tests.pools import SIZES, pack_pool, pool_run


@given(
    st.dictionaries(st.text("abc", min_size=1), st.integers(1, 10**9), min_size=1, max_size=8), st.integers(0, 10**9)
)
def test_remainders_go_to_the_largest_and_the_sum_is_exact(weights: dict[str, int], total: int) -> None:
    exact = {name: Fraction(weight) for name, weight in weights.items()}
    quotas = largest_remainders(total, exact)
    assert sum(quotas.values()) == total
    for name, quota in quotas.items():
        assert abs(quota - exact[name] * total / sum(exact.values())) < 1


def test_ties_go_to_the_earlier_name() -> None:
    assert largest_remainders(1, {"b": Fraction(1), "a": Fraction(1)}) == {"b": 0, "a": 1}


def test_alpha_is_the_decimal_that_was_written() -> None:
    samples = {"a": 100, "b": 10_000}
    assert share_weights(samples, 1.0) == {"a": 100, "b": 10_000}
    assert share_weights(samples, 0.0) == {"a": 1, "b": 1}
    half = share_weights(samples, 0.5)
    assert half["b"] / half["a"] == 10
    tenth = share_weights({"a": 1, "b": 10}, 0.1)
    assert abs(tenth["b"] ** 10 - 10) < Fraction(1, 10**50)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.data())
def test_caps_hold_and_what_they_leave_goes_to_the_others(sizes: list[int], data: st.DataObject) -> None:
    weights = {f"c{number}": Fraction(size) for number, size in enumerate(sizes)}
    caps = {name: data.draw(st.integers(0, 500)) for name in weights if data.draw(st.booleans())}
    total = data.draw(st.integers(1, 2000))
    if len(caps) == len(weights) and sum(caps.values()) < total:
        with pytest.raises(ConfigError):
            capped_quotas(total, weights, caps)
        return
    quotas = capped_quotas(total, weights, caps)
    assert sum(quotas.values()) == total
    assert all(quotas[name] <= cap for name, cap in caps.items())


def test_a_cap_is_over_the_whole_run() -> None:
    assert pass_cap(100, 2.5, Fraction(10)) == 25
    assert pass_cap(7, 1.0, Fraction(3)) == 2


def test_lanes_and_delays_are_bounded_together() -> None:
    assert pool_lanes([900, 90, 10], [10**6, 10**6, 3]) == [64, 46, 3]
    assert pool_delays([1000, 10**9], [1000, 1 << 40], [8, 8])[0] == 1000
    assert pool_delays([10**6] * 3, [1 << 33] * 3, [64] * 3) == pool_delays([10**6] * 3, [1 << 33] * 3, [64] * 3)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("pool"))
    pack_pool(place)
    return place


def planned(pool: str, *overrides: str) -> tuple[Config, dict[str, Manifest]]:
    config = resolved(load_config(None, [*pool_run(pool, Path("unused")), *overrides]))
    return config, {
        str(SplitKey(name, split)): Manifest.load(f"{pool}/{name}/{split}")
        for name in SIZES
        if config.data.corpora.get(name) is not None
        for split in ("train", "valid", "test")
    }


def quotas_of(pool: str, *overrides: str) -> dict[str, int]:
    config, manifests = planned(pool, *overrides)
    trains = {name: manifests[f"{name}/train"] for name in SIZES}
    return dict(make_pool_plan(config, trains).phases[0].quotas)


def test_shares_passes_and_limits_of_a_config(pool: str) -> None:
    no_alpha = "data.mix.alpha=null"
    assert quotas_of(pool, no_alpha) == {"talks": 161, "calls": 70, "clips": 42}
    shares = [f"data.corpora.{name}.share={share}" for name, share in (("talks", 1), ("calls", 1), ("clips", 2))]
    assert quotas_of(pool, no_alpha, *shares, "data.mix.epoch_samples=400") == {
        "talks": 100,
        "calls": 100,
        "clips": 200,
    }
    passes = [f"data.corpora.{name}.passes={count}" for name, count in (("talks", 1), ("calls", 2.5), ("clips", 3))]
    assert quotas_of(pool, no_alpha, *passes) == {"talks": 161, "calls": 175, "clips": 126}
    capped = quotas_of(pool, "data.corpora.clips.max_passes=5", "train.epochs=10")
    assert capped["clips"] == 21 and sum(capped.values()) == 273


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            [*(f"data.corpora.{name}.max_passes=1" for name in SIZES), "train.epochs=10"],
            r"all corpora reach max_passes after 1 of 10 epochs",
        ),
        (["train.global_batch=270"], "train.global_batch 270 takes 83 samples a step of calls, which has 70"),
        (
            [
                "data.mix.alpha=null",
                "data.mix.schedule=[{until: 3epochs, alpha: 1}, {until: 20steps, alpha: 0.5}, {alpha: 0}]",
            ],
            r"data.mix.schedule\[1\] ends after 20 steps, but begins after 36",
        ),
    ],
)
def test_a_mix_that_cannot_be_had_is_refused(pool: str, overrides: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        quotas_of(pool, *overrides)


def test_a_schedule_becomes_phases(pool: str) -> None:
    config, manifests = planned(
        pool, "data.mix.alpha=null", "data.mix.schedule=[{until: 2epochs, alpha: 1}, {alpha: 0}]", "train.epochs=4"
    )
    plan = plan_run(config, manifests, 2)
    assert plan.pool is not None
    first, second = plan.pool.phases
    assert first.quotas == {"talks": 161, "calls": 70, "clips": 42}
    assert second.quotas == {"talks": 91, "calls": 91, "clips": 91} and second.first_step == 2 * plan.steps_per_epoch
    assert plan.total_steps == 4 * plan.steps_per_epoch
    rows = dict(describe(plan, config, None))
    assert rows["shares (passes an epoch)"] == "talks 59.0% (1), calls 25.6% (1), clips 15.4% (1)"
    assert rows[f"shares from step {second.first_step + 1}"].startswith("talks 33.3% (0.565), calls 33.3% (1.3)")


def test_the_table_and_the_notes(pool: str) -> None:
    config, manifests = planned(pool, "data.corpora.calls.max_passes=40", "train.epochs=3")
    plan = plan_run(config, manifests, 2)
    rows = corpus_rows(config, plan, pool_layout(config, manifests, None))
    assert [row.corpus for row in rows] == list(SIZES)
    assert sum(row.epoch for row in rows) == plan.samples == 273
    talks = rows[0]
    assert talks.passes_all == pytest.approx(3 * talks.epoch / 161) and talks.first_step == 1
    assert rows[1].cells()[5].endswith("(max 40)") and rows[2].heads == ("mood",)
    assert any("samples in a group of 24 slots" in note for note in pool_notes(config, plan))
    out = planned(pool, 'data.corpora.calls.train=""', "data.corpora.calls.sets={}")
    del out[1]["calls/train"]
    assert held_out_notes(pool_layout(*out, None), out[1]) == [
        "calls is held out, its valid and test scored: sentiment by head sentiment"
    ]
    rare = planned(
        pool,
        "data.mix.alpha=null",
        *(f"data.corpora.{name}.share={share}" for name, share in (("talks", 9999), ("calls", 9999), ("clips", 1))),
    )
    assert "clips has one sample in" in pool_notes(rare[0], plan_run(*rare, 1))[0]
