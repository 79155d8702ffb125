"""Batches of several corpora: every sample reaches its own statistics, feature set and head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.config.loading import load_config
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.collate import BatchSpec, checked_labels, collate
from ivr_dist.data.batches.pool_collate import collate_pool
from ivr_dist.data.batches.pool_spec import PoolSpec, merged_statistics, pool_spec
from ivr_dist.data.batches.pooled_rows import PooledRows
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import CorruptDataError
from ivr_dist.orchestration.preflight import resolved
from ivr_dist.planning.label_scale import to_head
from ivr_dist.planning.pool_layout import WORDS, CorpusLayout, PoolLayout, pool_layout
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.member_layout import Layout
from ivr_dist.shards.sample_columns import Samples
from ivr_dist.shards.specs import Statistics, TaskSpec
from tests.pooled_batches import CORPORA, LAYOUT, SETS, SPEC, STATISTICS, pooled_batch, pooled_rows, raw_sample
from tests.pools import SIZES, pack_pool, pool_run

NAMES = list(SIZES)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("pool"))
    pack_pool(place)
    return place


@pytest.fixture(scope="module")
def spec(pool: str) -> PoolSpec:
    config = resolved(load_config(None, pool_run(pool, Path("unused"))))
    manifests = {
        f"{name}/{split}": Manifest.load(f"{pool}/{name}/{split}") for name in NAMES for split in ("train", "valid")
    }
    layout = pool_layout(config, manifests, None)
    trains = {name: manifests[f"{name}/train"] for name in NAMES}
    weights = {"clips": {"mood": np.array([1.0, 2.0, 3.0], np.float32)}}
    return pool_spec(layout, trains, ["audio", "vision"], class_weights=weights)


@pytest.fixture(scope="module")
def samples(pool: str) -> dict[int, Samples]:
    """The first samples of each corpus."""
    parts = {}
    for number, name in enumerate(NAMES):
        url = f"{pool}/{name}/train"
        reader = ShardReader(url, Manifest.load(url), 1 << 20)
        parts[number] = reader.read(np.arange(30))
        reader.close()
    return parts


def batch_of(spec: PoolSpec, samples: dict[int, Samples], corpus: list[int]) -> tuple[Batch, PooledRows]:
    """A batch of samples of these corpora, in this order."""
    numbers = np.array(corpus, np.int64)
    rows = np.array([corpus[:place].count(number) for place, number in enumerate(corpus)], np.int64)
    pooled = PooledRows([samples[number] for number in range(len(samples))], numbers, rows, numbers)
    return collate_pool(pooled, np.arange(len(corpus)), rows, spec), pooled


def steps_of(batch: Batch, modality: str, place: int) -> torch.Tensor:
    """The valid steps of a sample as the model reads them, before its input layer."""
    part = batch.modalities[modality]
    own = torch.nonzero(part.sample == place).flatten()
    if not part.sets:
        return part.features.flatten(0, 1).index_select(0, part.flat).index_select(0, own)
    assert part.order is not None
    counts = [len(steps.features) for steps in part.sets.values()]
    ends = np.cumsum(counts)
    found = []
    for index in part.order.index_select(0, own).tolist():
        number = int(np.searchsorted(ends, index, side="right"))
        steps = list(part.sets.values())[number].features
        found.append(steps[index - (ends[number] - counts[number])])
    return torch.stack(found) if found else torch.zeros(0, 0)


MIXED = [0, 1, 2, 0, 0, 2, 1, 1, 2, 0]


@pytest.mark.parametrize("corpora", [MIXED, [1], [2, 2, 2], [0, 1], []])
def test_every_step_is_that_of_its_sample_by_the_statistics_of_its_corpus(
    spec: PoolSpec, samples: dict[int, Samples], corpora: list[int]
) -> None:
    batch, pooled = batch_of(spec, samples, corpora)
    assert len(batch) == len(corpora) and batch.corpus.tolist() == corpora
    for place, number in enumerate(corpora):
        corpus, raw = spec.layout.corpora[number], samples[number][int(pooled.rows[place])]
        assert batch.keys[place] == raw.id
        for modality in spec.layout.sets:
            stored = raw.arrays.get(modality)
            if modality not in corpus.sets or stored is None:
                assert not batch.modalities[modality].present[place]
                continue
            expected = stored.astype(np.float32)
            if modality in spec.statistics[corpus.name]:
                mean, deviation = spec.statistics[corpus.name][modality]
                expected = (expected - mean) / deviation
            torch.testing.assert_close(steps_of(batch, modality, place), torch.from_numpy(expected))


def test_modalities_of_one_set_are_padded_and_of_several_flat(spec: PoolSpec, samples: dict[int, Samples]) -> None:
    assert {m: list(sets) for m, sets in spec.layout.sets.items()} == {
        "text": ["synth10"],
        "audio": ["narrow", "synth12"],
        "vision": ["synth6", "synth8"],
    }
    for corpora in (MIXED, [1, 1], []):
        batch, _ = batch_of(spec, samples, corpora)
        text, audio = batch.modalities["text"], batch.modalities["audio"]
        assert not text.sets and text.features.shape[2] == 10
        assert list(audio.sets) == ["narrow", "synth12"] and audio.order is not None
        assert sum(len(steps.features) for steps in audio.sets.values()) == len(audio.order) == len(audio.flat)
        assert sorted(audio.order.tolist()) == list(range(len(audio.order)))
        assert audio.features.shape == (*audio.mask.shape, 0)


def test_labels_go_to_their_heads_on_unit_scale_with_weights(spec: PoolSpec, samples: dict[int, Samples]) -> None:
    batch, pooled = batch_of(spec, samples, MIXED)
    assert list(batch.labels) == ["sentiment", "mood"] and list(batch.label_weight) == ["mood"]
    for place, number in enumerate(MIXED):
        raw = samples[number][int(pooled.rows[place])]
        mood = number == 2
        assert batch.label_mask["mood"][place] == mood and batch.label_mask["sentiment"][place] != mood
        if mood:
            label = int(raw.labels["mood"] or 0)
            assert batch.labels["mood"][place] == label and batch.label_weight["mood"][place] == label + 1
        else:
            assert batch.labels["sentiment"][place] == pytest.approx((raw.labels["sentiment"] or 0) / 3, abs=1e-6)
    native = replace(spec, layout=replace(spec.layout, scale="native"))
    plain, _ = batch_of(native, samples, MIXED)
    assert plain.labels["sentiment"][0] == pytest.approx(samples[0][0].labels["sentiment"])


def test_what_one_corpus_holds_changes_nothing_of_another(spec: PoolSpec, samples: dict[int, Samples]) -> None:
    before, _ = batch_of(spec, samples, MIXED)
    changed = {**samples, 1: samples[1].rows(10, 30)}
    after, _ = batch_of(spec, changed, MIXED)
    for place, number in enumerate(MIXED):
        for modality in spec.layout.sets:
            same = torch.equal(steps_of(before, modality, place), steps_of(after, modality, place))
            assert same or number == 1


def test_one_corpus_collates_to_the_tensors_without_a_pool(pool: str, samples: dict[int, Samples]) -> None:
    train = Manifest.load(f"{pool}/talks/train")
    single = BatchSpec.from_manifest(train, ["text", "audio", "vision"], ["audio", "vision"])
    corpus = CorpusLayout(
        name="talks",
        sets={m: feature.set for m, feature in train.features.items()},
        tasks=train.tasks,
        heads={task: task for task in train.tasks},
    )
    layout = PoolLayout(
        corpora=(corpus,),
        sets={m: {train.features[m].set: form} for m, form in single.modalities.items()},
        heads=train.tasks,
    )
    pooled = pool_spec(layout, {"talks": train}, ["audio", "vision"])
    ours, _ = batch_of(pooled, samples, [0] * 30)
    theirs = collate(samples[0], np.arange(30), np.arange(30), single)
    for modality, part in theirs.modalities.items():
        for field in ("features", "mask", "flat", "sample", "pairs"):
            assert torch.equal(getattr(ours.modalities[modality], field), getattr(part, field)), (modality, field)
        blocks, expected = ours.modalities[modality].blocks, part.blocks
        assert torch.equal(blocks.row, expected.row) and torch.equal(blocks.start, expected.start)
        assert blocks.shapes == expected.shapes and ours.modalities[modality].pieces is part.pieces is None
    for task, labels in theirs.labels.items():
        assert torch.equal(ours.labels[task], labels) and ours.labels[task].dtype == labels.dtype
        assert torch.equal(ours.label_mask[task], theirs.label_mask[task])
    assert ours.keys == theirs.keys and torch.equal(ours.slots, theirs.slots)


class Dropping:
    """A tokenizer that makes a piece for each letter of a word, and none of a dash."""

    padding = 0
    first_position = None
    context = 0
    states = None

    def encode(self, words: Sequence[str], before: Sequence[str] = ()) -> tuple[list[int], list[int | None]]:
        pieces = [(ord(letter), number) for number, word in enumerate(words) for letter in word.strip("-")]
        return [piece for piece, _ in pieces], [number for _, number in pieces]


def test_transcripts_are_those_without_a_pool_also_where_a_word_has_no_piece() -> None:
    """Its step stays in the padding, and the steps behind it where they are."""
    texts = [("it", "-", "is", "so"), (), ("-", "yes"), ("no",)]
    stored = [replace(raw_sample(3, seed), arrays={}, transcript=text) for seed, text in enumerate(texts)]
    samples = Samples.of(stored, Layout.of({}))
    tokenizer: Any = Dropping()
    single = BatchSpec({"text": (WORDS, 6)}, {}, {}, tokenizer=tokenizer)
    corpora = tuple(CorpusLayout(name=name, sets={"text": WORDS}, tasks={}, heads={}) for name in ("one", "two"))
    layout = PoolLayout(corpora=corpora, sets={"text": {WORDS: (WORDS, 6)}}, heads={})
    rows = PooledRows([samples], np.zeros(4, np.int64), np.arange(4), np.array([0, 1, 1, 0]))
    found = collate_pool(rows, np.arange(4), np.arange(4), PoolSpec(layout, tokenizer=tokenizer))
    expected = collate(samples, np.arange(4), np.arange(4), single)
    assert expected.modalities["text"].mask.tolist()[0] == [True, False, True, True]
    assert_same(found.modalities["text"], expected.modalities["text"])


def test_a_label_out_of_range_names_its_sample(spec: PoolSpec, samples: dict[int, Samples]) -> None:
    narrow = replace(spec.layout.corpora[0], tasks={"sentiment": TaskSpec(type="regression", low=0.0, high=0.1)})
    layout = replace(spec.layout, corpora=(narrow, *spec.layout.corpora[1:]))
    with pytest.raises(CorruptDataError, match=r"label sentiment is .* outside 0\.\.0\.1 \(.*sample talks_"):
        batch_of(replace(spec, layout=layout), samples, [0] * 20)


def test_statistics_of_several_corpora_are_those_of_all_steps_together() -> None:
    random = np.random.default_rng(0)
    parts = [random.normal(number, 1 + number, (50 * (number + 1), 3)) for number in range(3)]
    stored = [
        Statistics(mean=part.mean(axis=0).tolist(), std=part.std(axis=0).tolist(), steps=len(part)) for part in parts
    ]
    mean, deviation = merged_statistics(stored)
    every = np.concatenate(parts)
    np.testing.assert_allclose(mean, every.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation, every.std(axis=0), rtol=1e-12)
    assert [values.tolist() for values in merged_statistics(stored[:1])] == [stored[0].mean, stored[0].std]


@given(st.lists(st.integers(0, 3), max_size=16), st.integers(0, 1000))
def test_any_batch_holds_each_sample_as_it_was_stored(corpora: list[int], seed: int) -> None:
    """By a naive computation from the sample alone: its own statistics, feature set, head, range and weight."""
    slots = [seed + 3 * place for place in range(len(corpora))]
    found = pooled_batch(corpora, slots)
    assert found.slots.tolist() == slots and found.corpus.tolist() == corpora
    for place, (number, slot) in enumerate(zip(corpora, slots, strict=True)):
        corpus, raw = CORPORA[number], raw_sample(number, slot)
        for modality, sets in SETS.items():
            part = found.modalities[modality]
            assert list(part.sets) == list(sets)
            stored = raw.arrays.get(modality)
            assert part.mask[place].sum() == (0 if stored is None else len(stored))
            if stored is None:
                continue
            read = steps_of(found, modality, place)
            if modality in STATISTICS[corpus.name]:
                mean, deviation = STATISTICS[corpus.name][modality]
                torch.testing.assert_close(read, torch.from_numpy((stored - mean) / deviation))
            elif corpus.sets[modality] == "ids":
                assert read.tolist() == np.minimum(stored, 9).tolist(), "unknown ids are the first unknown one"
            else:
                torch.testing.assert_close(read, torch.from_numpy(np.asarray(stored)))
        heads = {head: task for task, head in corpus.heads.items()}
        for head in LAYOUT.heads:
            label = raw.labels[heads[head]] if head in heads else None
            assert found.label_mask[head][place] == (label is not None)
            if label is None:
                continue
            spec = corpus.tasks[heads[head]]
            unit = label if spec.classes else (label - (spec.low or 0)) / ((spec.high or 0) - (spec.low or 0)) * 2 - 1
            assert found.labels[head][place] == pytest.approx(unit, abs=1e-6)
        weight = [0.5, 1.0, 3.0][int(raw.labels["mood"] or 0)] if corpus.name == "calls" else 1.0
        if found.label_mask["mood"][place]:
            assert found.label_weight["mood"][place] == weight


def test_a_label_weighs_the_samples_of_its_corpus() -> None:
    """None and negative weights leave the sample out of the task losses."""
    rows = pooled_rows([3, 3, 3, 3, 0], [0, 1, 2, 3, 4])
    trust = [2.0, 0.25, None, -1.0]
    labels = [{"score": 0.5, "trust": value} for value in trust]
    posts = replace(rows.parts[1], labels=labels)
    spec = replace(SPEC, sample_weights={"posts": "trust"})
    found = collate_pool(replace(rows, parts=[rows.parts[0], posts]), np.arange(5), np.arange(5), spec)
    assert found.label_weight["sentiment"].tolist() == [2.0, 0.25, 0.0, 0.0, 1.0]


@settings(max_examples=30, deadline=None)
@given(corpora=st.lists(st.integers(0, 3), max_size=12), seed=st.integers(0, 1000), data=st.data())
def test_a_batch_does_not_depend_on_the_requests_that_its_samples_were_read_by(
    corpora: list[int], seed: int, data: st.DataObject
) -> None:
    """Each corpus in parts of any size, in any order, with samples of other batches between them."""
    seeds = list(range(seed, seed + len(corpora)))
    rows = pooled_rows(corpora, seeds)
    expected = collate_pool(rows, np.arange(len(corpora)), np.arange(len(corpora)), SPEC)
    parts, part, places = [], np.zeros(len(corpora), np.int64), np.zeros(len(corpora), np.int64)
    for number in sorted(set(corpora)):
        own = data.draw(st.permutations([place for place, corpus in enumerate(corpora) if corpus == number]))
        cut = data.draw(st.integers(0, len(own)))
        for group in filter(None, (own[:cut], own[cut:])):
            # The first row belongs to another batch.
            others = pooled_rows([number] * (1 + len(group)), [seed + 5000, *(seeds[place] for place in group)])
            part[group], places[group] = len(parts), np.arange(1, 1 + len(group))
            parts.append(others.parts[0])
    found = collate_pool(
        PooledRows(parts, part, places, rows.corpus), np.arange(len(corpora)), np.arange(len(corpora)), SPEC
    )
    assert_same(found, expected)


def assert_same(one: object, other: object) -> None:
    """Two values are equal to the bit, with all tensors that they hold."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)  # type: ignore[attr-defined, arg-type]
    elif is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert list(one) == list(other)  # type: ignore[call-overload]
        for name, value in one.items():
            assert_same(value, other[name])  # type: ignore[index]
    else:
        assert one == other


@settings(max_examples=50, deadline=None)
@given(corpora=st.lists(st.integers(0, 3), max_size=10), unit=st.booleans())
def test_labels_are_those_of_each_corpus_by_itself(corpora: list[int], unit: bool) -> None:
    rows = pooled_rows(corpora, list(range(len(corpora))))
    spec = replace(SPEC, layout=replace(LAYOUT, scale="unit" if unit else "native"))
    batch = collate_pool(rows, np.arange(len(corpora)), np.arange(len(corpora)), spec)
    for place, number in enumerate(corpora):
        corpus = LAYOUT.corpora[number]
        part, row = rows.locate(place)
        for task, head in corpus.heads.items():
            values, mask = checked_labels(part, [row], task, corpus.tasks[task])
            expected = to_head(values, corpus.tasks[task], unit)
            assert batch.label_mask[head][place].item() == mask[0]
            assert batch.labels[head][place] == torch.from_numpy(expected)[0].to(batch.labels[head].dtype)
        for head in LAYOUT.heads.keys() - set(corpus.heads.values()):
            assert not batch.label_mask[head][place]
            assert not batch.labels[head][place]
