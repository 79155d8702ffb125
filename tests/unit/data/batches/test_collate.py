"""Collation: padding, masks, flat indices, standardization, labels, empty batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.data.batches.batch import Batch, modality_batch
from ivr_dist.data.batches.collate import BatchSpec, collate
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.shards.decode import RawSample
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.member_layout import Layout
from ivr_dist.shards.sample_columns import Samples
from ivr_dist.shards.specs import FeatureSpec, Statistics, TaskSpec

MEAN, DEVIATION = np.array([1.0, -2.0], np.float32), np.array([2.0, 0.5], np.float32)
TASKS = {
    "sentiment": TaskSpec(type="regression", low=-3.0, high=3.0, scale="mosi"),
    "humor": TaskSpec(type="classification", classes=3),
}
SPEC = BatchSpec(
    modalities={"text": ("tokens", 10), "audio": ("features", 2), "vision": ("features", 3)},
    tasks=TASKS,
    statistics={"audio": (MEAN, DEVIATION)},
)


def sample(key: str, labels: dict[str, float | None] | None = None, **arrays: object) -> RawSample:
    return RawSample(
        key, f"id-{key}", labels or {}, {name: np.asarray(value) for name, value in arrays.items()}, "s.tar"
    )


def stored(
    samples: Sequence[RawSample], spec: BatchSpec = SPEC, numbers: str = "float32", ids: str = "int64"
) -> Samples:
    """Samples of a split whose features and token ids are of these types."""
    features = {}
    for name, (kind, dim) in spec.modalities.items():
        if kind == "tokens":
            features[name] = FeatureSpec(set=name, dim=1, dtype=ids, kind="tokens")
        elif kind == "features":
            features[name] = FeatureSpec(set=name, dim=dim, dtype=numbers, kind="features")
    return Samples.of(samples, Layout.of(features))


def batch_of(*samples: RawSample, spec: BatchSpec = SPEC) -> Batch:
    return collate(stored(samples, spec), np.arange(len(samples)) + 5, np.arange(len(samples)) * 10, spec)


def test_padding_masks_and_flat_indices() -> None:
    audio = [np.full((2, 2), 3.0, np.float16), np.full((4, 2), 5.0, np.float32)]
    batch = batch_of(
        sample("a", text=np.array([7, 8, 9], np.int32), audio=audio[0]),
        sample("b", audio=audio[1]),
        sample("c", text=np.array([4], np.int32)),
    )
    assert batch.keys == ("id-a", "id-b", "id-c")
    assert batch.slots.tolist() == [5, 6, 7]
    assert batch.positions.tolist() == [0, 10, 20]

    text = batch.modalities["text"]
    assert text.features.dtype == torch.int64
    assert text.features.tolist() == [[7, 8, 9], [0, 0, 0], [4, 0, 0]]
    assert text.mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert text.flat.tolist() == [0, 1, 2, 6]
    assert text.sample.tolist() == [0, 0, 0, 2]
    assert text.pairs.tolist() == [0, 1]
    assert text.present.tolist() == [True, False, True]

    features = batch.modalities["audio"].features
    assert (features.dtype, tuple(features.shape)) == (torch.float32, (3, 4, 2))
    assert features[0].tolist() == [[1.0, 10.0], [1.0, 10.0], [0.0, 0.0], [0.0, 0.0]]
    assert features[1].tolist() == [[2.0, 14.0]] * 4
    assert features[2].abs().sum() == 0
    assert batch.modalities["audio"].pairs.tolist() == [0, 2, 3, 4]


def test_a_modality_that_all_samples_miss_has_no_steps() -> None:
    vision = batch_of(sample("a"), sample("b", vision=np.zeros((0, 3), np.float32))).modalities["vision"]
    assert tuple(vision.features.shape) == (2, 0, 3)
    assert tuple(vision.mask.shape) == (2, 0)
    assert vision.present.tolist() == [False, False]
    assert len(vision.flat) == len(vision.sample) == len(vision.pairs) == 0


def test_an_empty_batch_keeps_every_field_and_type() -> None:
    empty, full = batch_of(), batch_of(sample("a", {"sentiment": 1.0, "humor": 2}, audio=np.zeros((1, 2), np.float32)))
    assert len(empty) == 0
    assert list(empty.modalities) == list(full.modalities)
    for name, part in empty.modalities.items():
        assert tuple(part.features.shape) == ((0, 0) if name == "text" else (0, 0, SPEC.modalities[name][1]))
        assert part.features.dtype == full.modalities[name].features.dtype
        assert tuple(part.mask.shape) == (0, 0)
        assert part.mask.dtype == torch.bool
        assert part.present.tolist() == []
        for index in (part.flat, part.sample, part.pairs):
            assert (index.dtype, tuple(index.shape)) == (torch.int64, (0,))
    for name in TASKS:
        assert (empty.labels[name].dtype, tuple(empty.labels[name].shape)) == (full.labels[name].dtype, (0,))
        assert (empty.label_mask[name].dtype, tuple(empty.label_mask[name].shape)) == (torch.bool, (0,))
    assert empty.slots.dtype == empty.positions.dtype == torch.int64


def test_labels_null_absent_and_of_both_types() -> None:
    batch = batch_of(
        sample("a", {"sentiment": -1.5, "humor": 2.0, "unknown": 1.0}), sample("b", {"sentiment": None}), sample("c")
    )
    assert set(batch.labels) == {"sentiment", "humor"}
    assert batch.labels["sentiment"].dtype == torch.float32
    assert batch.labels["sentiment"].tolist() == [-1.5, 0.0, 0.0]
    assert batch.labels["humor"].dtype == torch.int64
    assert batch.labels["humor"].tolist() == [2, 0, 0]
    assert batch.label_mask["sentiment"].tolist() == batch.label_mask["humor"].tolist() == [True, False, False]


@settings(max_examples=60)
@given(st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=6), st.integers(0, 2**31))
def test_valid_steps_are_the_standardized_samples_and_the_rest_is_zero(lengths: list[int | None], seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = [None if n is None else random.normal(size=(n, 2)).astype(np.float32) for n in lengths]
    part = batch_of(
        *(sample(str(i)) if a is None else sample(str(i), audio=a) for i, a in enumerate(arrays))
    ).modalities["audio"]
    rows = [np.zeros((0, 2)) if a is None else (a - MEAN) / DEVIATION for a in arrays]
    assert part.mask.shape[1] == max(map(len, rows), default=0)
    assert part.mask.sum(dim=1).tolist() == [len(row) for row in rows]
    valid = part.features.flatten(0, 1)[part.flat]
    np.testing.assert_allclose(valid, np.concatenate([np.zeros((0, 2)), *rows]), rtol=1e-6, atol=1e-6)
    assert part.features[~part.mask].abs().sum() == 0
    assert part.sample.tolist() == [i for i, row in enumerate(rows) for _ in row]
    assert len(part.pairs) == sum(max(0, len(row) - 1) for row in rows)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=4))
def test_modalities_that_are_aligned_and_those_that_are_not(lengths: list[tuple[int, int, int]]) -> None:
    """Three lengths at a time of a few: all three masks, two of them or none are the same."""
    samples = [
        sample(str(i), text=np.full(t, 1 + i), audio=np.full((a, 2), 2.0 + i), vision=np.full((v, 3), 3.0 + i))
        for i, (t, a, v) in enumerate(lengths)
    ]
    batch = batch_of(*samples)
    for name, own in zip(SPEC.modalities, zip(*lengths, strict=True), strict=True):
        part = batch.modalities[name]
        expected = modality_batch(part.features, torch.arange(max(own)) < torch.tensor(own)[:, None])
        for field in ("mask", "flat", "sample", "pairs"):
            assert torch.equal(getattr(part, field), getattr(expected, field)), f"{field} of {name}"
        values = part.features if name == "text" else part.features[..., 0]
        if name != "audio":
            start = 1 if name == "text" else 3
            assert values[part.mask].tolist() == [start + i for i, n in enumerate(own) for _ in range(n)]


@pytest.mark.parametrize("numbers", ["float16", "float64", "int16", ">f4"])
@pytest.mark.parametrize("ids", ["uint8", "int32", ">i8"])
def test_batches_hold_float32_and_int64_for_any_stored_type(numbers: str, ids: str) -> None:
    samples = [sample("a", text=[1, 2], audio=[[3, 4]]), sample("b", text=[5], audio=[[6, 7], [8, 9]]), sample("c")]
    found = collate(stored(samples, replace(SPEC, statistics={}), numbers, ids), np.arange(3), np.arange(3), SPEC)
    text, audio = found.modalities["text"].features, found.modalities["audio"].features
    assert (text.dtype, audio.dtype) == (torch.int64, torch.float32)
    assert text.tolist() == [[1, 2], [5, 0], [0, 0]]
    expected = np.array([[[3, 4], [0, 0]], [[6, 7], [8, 9]], [[0, 0], [0, 0]]], np.float32)
    expected[[0, 1, 1], [0, 0, 1]] = (expected[[0, 1, 1], [0, 0, 1]] - MEAN) / DEVIATION
    np.testing.assert_array_equal(audio.numpy(), expected)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    short = sample("a", audio=np.array([[0.1, 0.7]], np.float32))
    alone = batch_of(short).modalities["audio"].features[0]
    beside = batch_of(sample("b", audio=np.ones((7, 2), np.float32)), short).modalities["audio"].features[1, :1]
    assert torch.equal(alone, beside)


def test_the_arrays_of_a_sample_are_not_changed() -> None:
    audio = np.ones((2, 2), np.float32)
    batch_of(sample("a", audio=audio))
    assert (audio == 1).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"audio": np.zeros((2, 3), np.float32)}, r"audio is float32 \[2, 3\], the manifest says numbers \[steps, 2\]"),
        ({"audio": np.zeros(2, np.float32)}, r"audio is float32 \[2\]"),
        ({"audio": np.zeros((2, 2), bool)}, "audio is bool"),
        ({"text": np.zeros(2, np.float32)}, r"text is float32 \[2\], the manifest says integers \[steps\]"),
        ({"text": np.zeros((2, 1), np.int32)}, r"text is int32 \[2, 1\]"),
    ],
)
def test_another_layout_is_refused(arrays: dict, message: str) -> None:
    with pytest.raises(CorruptDataError, match=message + r".*s\.tar, sample a\); pack"):
        batch_of(sample("a", **arrays))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"text": np.array([1, 2**40])}, "text is int64 with values that the manifest's int32 cannot hold"),
        ({"text": np.array([3, 2**31], np.uint32)}, "text is uint32 with values"),
        ({"audio": np.array([[1.0, 1e39]])}, "audio is float64 with values that the manifest's float32 cannot hold"),
    ],
)
def test_values_that_the_stored_type_cannot_hold_are_refused(arrays: dict, message: str) -> None:
    """And never wrapped around to other ones."""
    with pytest.raises(CorruptDataError, match=message + r".*s\.tar, sample a\); pack"):
        stored([sample("a", **arrays)], ids="int32")
    fits = stored([sample("a", text=np.array([2**31 - 1]), audio=np.array([[0.1, np.inf]]))], ids="int32")
    assert fits[0].arrays["text"].tolist() == [2**31 - 1]
    assert fits[0].arrays["audio"].tolist() == [[np.float32(0.1), np.inf]]


@pytest.mark.parametrize("label", [3.1, -9.0])
def test_a_label_outside_its_range_is_refused(label: float) -> None:
    expected = rf"label sentiment is {label:g}, outside -3\.\.3 \(s\.tar, sample a\); correct the label"
    with pytest.raises(CorruptDataError, match=expected):
        batch_of(sample("a", {"sentiment": label}))
    batch_of(sample("a", {"sentiment": 3.0}), sample("b", {"sentiment": -3.0}))


@pytest.mark.parametrize("label", [3.0, -1.0, 0.5])
def test_a_label_that_is_no_class_is_refused(label: float) -> None:
    with pytest.raises(CorruptDataError, match=r"label humor is .*, not a class 0..2 \(s\.tar, sample a\)"):
        batch_of(sample("a", {"humor": label}))


def manifest(**changes: object) -> Manifest:
    features = {
        "text": FeatureSpec(set="words", dim=1, dtype="int32", kind="tokens"),
        "audio": FeatureSpec(set="covarep", dim=2, dtype="float16", kind="features"),
        "vision": FeatureSpec(set="facet", dim=3, dtype="float32", kind="features"),
    }
    whole = Manifest.create(
        corpus="mosi",
        split="train",
        seed=0,
        features=features,
        tasks=TASKS,
        shards=[],
        statistics={"audio": Statistics(mean=[1.0, -2.0], std=[2.0, 0.5], steps=9)},
        vocabulary={"text": 10},
    )
    return replace(whole, **changes)


def test_spec_from_a_manifest() -> None:
    spec = BatchSpec.from_manifest(manifest(), ["vision", "audio", "text"], ["audio", "text"])
    assert list(spec.modalities.items()) == list(SPEC.modalities.items())
    assert spec.tasks == TASKS
    assert list(spec.statistics) == ["audio"]
    for found, expected in zip(spec.statistics["audio"], (MEAN, DEVIATION), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert list(BatchSpec.from_manifest(manifest(), ["audio"], []).modalities) == ["audio"]


def test_ids_that_training_does_not_have_are_one_unknown_id() -> None:
    batch = batch_of(sample("a", text=np.array([9, 10, 200], np.uint8)), sample("b", text=np.array([2**40])))
    assert batch.modalities["text"].features.tolist() == [[9, 10, 10], [10, 0, 0]]
    spec = BatchSpec.from_manifest(manifest(), ["text"], [])
    spec.check_split(manifest(split="valid", vocabulary={"text": 99}))
    with pytest.raises(DataError, match=r"has no vocabulary size of the token ids of text \(mosi, split train\); pack"):
        BatchSpec.from_manifest(manifest(vocabulary={}), ["text"], [])


def test_spec_without_statistics_or_modalities_is_refused() -> None:
    with pytest.raises(DataError, match=r"no statistics of vision \(data.standardize\); leave vision out"):
        BatchSpec.from_manifest(manifest(), ["vision"], ["vision"])
    with pytest.raises(DataError, match=r"the data set has audio, the run uses vision \(data.modalities\)"):
        BatchSpec.from_manifest(manifest(features={"audio": manifest().features["audio"]}), ["vision"], [])


def test_splits_that_do_not_fit_training_are_refused() -> None:
    spec = BatchSpec.from_manifest(manifest(), ["audio", "vision"], [])
    features = manifest().features
    spec.check_split(manifest(split="valid", statistics={}))
    spec.check_split(manifest(features={name: features[name] for name in ("audio", "vision")}))
    with pytest.raises(DataError, match=r"has no vision where training has vision features of width 3 \(mosi, split v"):
        spec.check_split(manifest(split="valid", features={"audio": features["audio"]}))
    with pytest.raises(DataError, match="has audio features of width 9 where training has audio features of width 2"):
        spec.check_split(manifest(features={**features, "audio": replace(features["audio"], dim=9)}))
    with pytest.raises(DataError, match="lacks the task humor of training"):
        spec.check_split(manifest(tasks={"sentiment": TASKS["sentiment"]}))


def test_a_common_length_counts_every_step_and_misses_no_modality() -> None:
    samples = [sample("a", audio=np.full((2, 2), 3.0)), sample("b", vision=np.ones((4, 3)))]
    spec = replace(SPEC, modalities={name: SPEC.modalities[name] for name in ("audio", "vision")}, common_length=True)
    batch = collate(stored(samples, spec), np.arange(2), np.arange(2), spec, steps=5)
    for name, dim in (("audio", 2), ("vision", 3)):
        part = batch.modalities[name]
        assert part.features.shape == (2, 5, dim)
        assert part.mask.all() and part.present.all()
        assert part.flat.tolist() == list(range(10))
        assert part.pairs.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    audio = batch.modalities["audio"].features
    assert audio[0, 0].tolist() == [1.0, 10.0]
    assert not audio[0, 2:].any() and not audio[1].any(), "the padding is 0 after standardization too"
    assert collate(stored([], spec), np.arange(0), np.arange(0), spec, steps=5).modalities["audio"].mask.shape == (0, 5)


class Encoder:
    """Stands for a pretrained encoder of width 6 whose tokenizer makes one piece of a word."""

    width = 6
    padding = 0
    first_position = None
    context = 0
    states = None

    def tokenizer(self, note: object = None) -> Encoder:
        return self

    def encode(self, words: Sequence[str], before: Sequence[str] = ()) -> tuple[list[int], list[int | None]]:
        return [len(word) for word in words], list(range(len(words)))


def test_transcripts_in_place_of_the_packed_text() -> None:
    told = manifest(transcripts=3)
    encoder: Any = Encoder()
    for train in (told, manifest(transcripts=3, features={"audio": told.features["audio"]}, vocabulary={})):
        spec = BatchSpec.from_manifest(train, ["text", "audio"], ["audio", "text"], text=encoder)
        assert list(spec.modalities.items()) == [("text", ("words", 6)), ("audio", ("features", 2))]
    spec.check_split(manifest(split="valid", transcripts=1, features={"audio": told.features["audio"]}))
    with pytest.raises(DataError, match=r"no sample of the split has a transcript.*split valid\); pack the corpus"):
        spec.check_split(manifest(split="valid"))
    with pytest.raises(DataError, match="no sample of the split has a transcript"):
        BatchSpec.from_manifest(manifest(), ["text", "audio"], [], text=encoder)
    assert "text" not in BatchSpec.from_manifest(told, ["audio"], [], text=encoder).modalities

    samples = [
        replace(sample("a", text=[3]), transcript=("so", "good")),
        sample("b"),
        replace(sample("c"), transcript="it "),
    ]
    text = batch_of(*samples, spec=spec).modalities["text"]
    assert text.mask.tolist() == [[True, True], [False, False], [True, False]]
    assert text.pieces is not None
    assert text.pieces.ids.tolist() == [[2, 4], [2, 0]]
    assert text.pieces.text.tolist() == [[0, 0], [2, -1]], "a text without pieces has no place"
    assert text.pieces.places is None
    moved = text.to(torch.device("cpu"))
    assert moved.pieces is not None and torch.equal(moved.pieces.step, text.pieces.step)
    empty = batch_of(spec=spec).modalities["text"]
    assert empty.pieces is not None and empty.pieces.ids.shape == (0, 0) and empty.mask.shape == (0, 0)
