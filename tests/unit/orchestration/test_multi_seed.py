"""Multi-seed runs: parsing of seeds, and summaries of metrics."""

from __future__ import annotations

import pytest

from ivr_dist.errors import ConfigError
from ivr_dist.orchestration.multi_seed import parse_seeds, summarize


def test_seeds_keep_their_order() -> None:
    assert parse_seeds("3,0,12") == [3, 0, 12]


@pytest.mark.parametrize("text", ["a", "1,,2", "-1,2", "1,1", "1;2", "1.5"])
def test_other_texts_are_refused_as_seeds(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


def test_mean_and_sample_deviation_by_hand() -> None:
    runs = [
        {"valid": {"c/mae": 1.0, "c/corr": None}, "test": {"c/mae": 4.0}},
        {"valid": {"c/mae": 2.0, "c/corr": 0.5}, "test": {"c/mae": 4.0}},
        {"valid": {"c/mae": 6.0, "c/corr": 0.5}, "test": {"c/mae": 4.0}},
    ]
    summary = summarize(runs)
    assert summary["valid"] == {"c/mae": {"mean": 3.0, "std": 7.0**0.5, "values": [1.0, 2.0, 6.0]}}
    assert summary["test"] == {"c/mae": {"mean": 4.0, "std": 0.0, "values": [4.0, 4.0, 4.0]}}


def test_one_seed_has_no_deviation() -> None:
    assert summarize([{"test": {"c/mae": 2.0}}])["test"]["c/mae"] == {"mean": 2.0, "std": 0.0, "values": [2.0]}
