"""The synthetic corpus: deterministic, clean, and learnable from each modality."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ivr_dist.corpora.source import SourceSample, prepare
from ivr_dist.corpora.synthetic import DEFAULT_DIMS, SynthSource
from ivr_dist.errors import ConfigError


def split_samples(source: SynthSource, split: str) -> list[SourceSample]:
    return [source.load(split, ref) for ref in source.splits()[split]]


def pooled(samples: list[SourceSample], modalities: list[str]) -> np.ndarray:
    """[samples, features] time means, 0 where a modality is missing, and a 1."""
    rows = []
    for sample in samples:
        parts = [
            sample.arrays[name].mean(axis=0) if name in sample.arrays else np.zeros(DEFAULT_DIMS[name])
            for name in modalities
        ]
        rows.append(np.concatenate([*parts, [1.0]]))
    return np.array(rows)


def labels(samples: list[SourceSample]) -> np.ndarray:
    return np.array([sample.labels["sentiment"] for sample in samples], float)


def ridge_error(source: SynthSource, modalities: list[str]) -> float:
    """Mean absolute error on test of a ridge regression on time means."""
    train, test = split_samples(source, "train"), split_samples(source, "test")
    x = pooled(train, modalities)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ labels(train))
    return float(np.abs(pooled(test, modalities) @ weights - labels(test)).mean())


def test_a_linear_model_beats_the_mean_and_every_modality_helps() -> None:
    source = SynthSource(1500, seed=3)
    test = labels(split_samples(source, "test"))
    mean_error = float(np.abs(test - labels(split_samples(source, "train")).mean()).mean())
    every = ridge_error(source, ["text", "audio", "vision"])
    assert every < 0.45 * mean_error
    for left_out in ("text", "audio", "vision"):
        assert ridge_error(source, [name for name in DEFAULT_DIMS if name != left_out]) > 1.1 * every


def test_labels_are_like_ratings() -> None:
    values = labels(split_samples(SynthSource(1500), "train"))
    assert values.min() >= -3 and values.max() <= 3
    assert np.allclose(values * 5, np.round(values * 5))
    assert abs(values.mean()) < 0.2 and 0.8 < values.std() < 2
    assert 0 < np.mean(values == 0) < 0.2


def test_it_is_quick() -> None:
    started = time.process_time()
    source = SynthSource(1500)
    for split in source.splits():
        split_samples(source, split)
    assert time.process_time() - started < 3


def test_splits_and_groups() -> None:
    splits = SynthSource(1500).splits()
    assert {split: len(refs) for split, refs in splits.items()} == {"train": 1050, "valid": 225, "test": 225}
    groups = [{ref.group for ref in refs} for refs in splits.values()]
    assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2]
    assert len({ref.id for refs in splits.values() for ref in refs}) == 1500


def test_a_sample_depends_only_on_seed_and_number() -> None:
    small, large = SynthSource(20, seed=1), SynthSource(200, seed=1)
    for number in (0, 13):
        ref = small.splits()["train"][number]
        one, other = small.load("train", ref), large.load("train", ref)
        assert one.labels == other.labels and one.transcript == other.transcript
        assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)
    again = SynthSource(20, seed=2)
    assert labels(split_samples(again, "train")).tolist() != labels(split_samples(small, "train")).tolist()


def test_arrays_fit_the_feature_sets() -> None:
    source = SynthSource(60, missing=0.3)
    found = split_samples(source, "train")
    for sample in found:
        prepared = prepare(sample, source.features)
        assert not prepared.replaced
        assert len({len(array) for array in prepared.arrays.values()}) <= 1  # aligned
        assert all(array.dtype == np.float32 for array in prepared.arrays.values())
        if "text" in prepared.arrays:
            assert len(sample.transcript.split()) == len(prepared.arrays["text"])
    missing = {name: sum(name not in sample.arrays for sample in found) for name in DEFAULT_DIMS}
    assert all(0 < count < len(found) for count in missing.values())


def test_unaligned_modalities_have_their_own_rates() -> None:
    source = SynthSource(60, aligned=False, missing=0)
    steps = np.array([[len(s.arrays[name]) for name in DEFAULT_DIMS] for s in split_samples(source, "train")])
    rates = steps.sum(axis=0) / steps[:, 0].sum()
    assert rates == pytest.approx([1, 3, 2], rel=0.1)
    assert steps.min() >= 1


def test_tokens_are_the_words_of_the_transcript_and_change_nothing_else() -> None:
    vectors, tokens = SynthSource(60, seed=1, missing=0.2), SynthSource(60, seed=1, missing=0.2, text="tokens")
    assert tokens.features["text"].kind == "tokens"
    word_of: dict[int, str] = {}
    for one, other in zip(split_samples(vectors, "train"), split_samples(tokens, "train"), strict=True):
        assert one.labels == other.labels and one.transcript == other.transcript
        assert one.arrays.keys() == other.arrays.keys()
        assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays if name != "text")
        ids = prepare(other, tokens.features).arrays.get("text")
        if ids is not None:
            assert [word_of.setdefault(i, word) for i, word in zip(ids.tolist(), other.transcript.split(), strict=True)]
            assert [word_of[i] for i in ids.tolist()] == other.transcript.split()
    assert {"good", "bad"} < set(word_of.values())
    with pytest.raises(ConfigError, match="cannot be words; choose features or tokens"):
        SynthSource(60, text="words")  # type: ignore[arg-type]


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 samples are too few"):
        SynthSource(3)
