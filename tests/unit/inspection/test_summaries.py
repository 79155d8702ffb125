"""Summaries of data against numpy, and their bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.inspection.summaries import (
    FeatureCollector,
    FieldCollector,
    LengthCounts,
    TokenCollector,
    label_edges,
    length_edges,
    summarize_labels,
)
from ivr_dist.shards.specs import TaskSpec

LENGTHS = st.lists(st.integers(0, 3000), min_size=1, max_size=50)


@given(LENGTHS, LENGTHS)
def test_lengths(one: list[int], other: list[int]) -> None:
    counts, both = LengthCounts(), LengthCounts()
    for part in (one, other):
        both.add(np.array(part, np.int32))
    counts.add(np.array(one))
    edges = length_edges([counts, both])
    assert edges == sorted(set(edges)) and len(edges) <= 27
    assert edges[0] <= min(one + other) and edges[-1] > max(one + other)
    spread = both.spread(edges)
    assert spread is not None
    every = np.array(one + other)
    assert (spread.count, spread.min, spread.max) == (len(every), every.min(), every.max())
    assert spread.mean == pytest.approx(every.mean())
    assert spread.median == np.quantile(every, 0.5, method="inverted_cdf")
    assert spread.p95 == np.quantile(every, 0.95, method="inverted_cdf")
    assert spread.histogram.counts == np.histogram(every, edges)[0].tolist()
    assert sum(spread.histogram.counts) == len(every)


def test_no_lengths() -> None:
    assert LengthCounts().spread(length_edges([])) is None


def test_label_bins_follow_the_usual_scales() -> None:
    mosi = TaskSpec(type="regression", low=-3, high=3, scale="mosi")
    assert label_edges(mosi, np.zeros(0)) == [x / 4 for x in range(-13, 14, 2)]  # around -3, -2.5, ..., 3
    sims = TaskSpec(type="regression", low=-1, high=1, scale="sims")
    assert label_edges(sims, np.zeros(0)) == pytest.approx(np.arange(-1.1, 1.2, 0.2).tolist())
    assert label_edges(TaskSpec(type="classification", classes=3), np.zeros(0)) == [-0.5, 0.5, 1.5, 2.5]
    assert label_edges(TaskSpec(type="regression"), np.zeros(0)) is None


@given(st.lists(st.integers(-(10**6), 10**6).map(lambda number: number / 1000), min_size=1, max_size=30))
def test_every_label_has_a_bin(values: list[float]) -> None:
    task, labels = TaskSpec(type="regression"), np.array(values)
    edges = label_edges(task, labels)
    found = summarize_labels(task, labels, 4, edges)
    assert found.histogram is not None and sum(found.histogram.counts) == len(values)
    assert len(found.histogram.counts) <= 15
    assert (found.labelled, found.missing, found.min, found.max) == (len(values), 4, min(values), max(values))


def test_feature_statistics_match_numpy_over_finite_steps() -> None:
    random = np.random.default_rng(0)
    steps = random.normal(3, 2, (40, 5)).astype(np.float32)
    steps[:, 2] = 7
    steps[4] = 0
    clean = np.concatenate([steps[:9], steps[10:]])
    steps[9, 1], steps[9, 3] = np.nan, np.inf
    collector = FeatureCollector(5)
    for part in (steps[:0], steps[:13], steps[13:]):
        collector.add(part)
    found = collector.summary()
    assert found is not None
    assert (found.steps, found.nonfinite, found.zero_steps, found.constant) == (40, 2, 1, [])
    exact = clean.astype(np.float64)
    assert found.columns.mean == pytest.approx(exact.mean(axis=0))
    assert found.columns.std == pytest.approx(exact.std(axis=0))
    assert (found.min, found.max) == (clean.min(), clean.max())
    assert (found.mean, found.std) == (pytest.approx(exact.mean()), pytest.approx(exact.std()))
    constant = FeatureCollector(2)
    constant.add(np.array([[1, 4], [2, 4]], np.float16))
    values = constant.summary()
    assert values is not None and values.constant == [1] and values.columns.std == [0.5, 0.0]
    assert FeatureCollector(2).summary() is None


def test_tokens_and_fields() -> None:
    tokens = TokenCollector()
    assert tokens.summary() is None
    tokens.add(np.array([5, 3, 5]))
    tokens.add(np.array([], np.int32))
    found = tokens.summary()
    assert found is not None and (found.steps, found.min, found.max, found.distinct) == (3, 3, 5, 2)
    field = FieldCollector()
    for number in range(10_002):
        field.add(str(number))
    field.add("0")
    summary = field.summary()
    assert (summary.samples, summary.distinct, summary.more) == (10_003, 10_000, True)
    assert summary.examples == ["0", "1", "2"]
