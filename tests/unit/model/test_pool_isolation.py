"""No sample of a corpus reaches another one's input layers, statistics, heads or predictions, compared bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.pool_collate import collate_pool
from ivr_dist.data.batches.pool_spec import pool_spec
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import Statistics
from tests.batches import model_config
from tests.pooled_batches import CORPORA, LAYOUT, SETS, SPEC, pooled_model, pooled_rows

MIXED = [0, 1, 2, 3, 0, 1, 2, 3, 1, 0, 2, 3]
"""Samples of all corpora."""

corpora_and_one_of_them = st.lists(st.integers(0, 3), min_size=1, max_size=14).flatmap(
    lambda corpora: st.tuples(st.just(corpora), st.sampled_from(corpora))
)


def collated(corpora: list[int], seeds: list[int]) -> Batch:
    places = torch.arange(len(corpora)).numpy()
    return collate_pool(pooled_rows(corpora, seeds), places, places, SPEC)


def owners(batch: Batch, modality: str) -> dict[str, Tensor]:
    """By feature set: [N_s] place of the sample of each of its steps."""
    part = batch.modalities[modality]
    joined = torch.empty_like(part.sample)
    joined[part.order] = part.sample
    sizes = [len(steps.features) for steps in part.sets.values()]
    return dict(zip(part.sets, joined.split(sizes), strict=True))


def inputs_of(batch: Batch, place: int) -> dict[str, Tensor]:
    """All that a model reads, and a loss compares it with, of one sample."""
    found = {f"label {head}": values[place] for head, values in batch.labels.items()}
    found |= {f"mask {head}": values[place] for head, values in batch.label_mask.items()}
    found |= {f"weight {head}": values[place] for head, values in batch.label_weight.items()}
    for modality, part in batch.modalities.items():
        for name, places in owners(batch, modality).items():
            found[f"{modality} {name}"] = part.sets[name].features[places == place]
    return found


@given(corpora_and_one_of_them, st.integers(0, 1000))
def test_other_samples_of_a_corpus_change_no_input_of_the_others(drawn: tuple[list[int], int], seed: int) -> None:
    """Lengths, missing modalities and labels of the other samples differ, too."""
    corpora, changed = drawn
    before = collated(corpora, [seed + place for place in range(len(corpora))])
    seeds = [seed + place + (5000 if number == changed else 0) for place, number in enumerate(corpora)]
    after = collated(corpora, seeds)
    for place, number in enumerate(corpora):
        if number == changed:
            continue
        one, other = inputs_of(before, place), inputs_of(after, place)
        assert one.keys() == other.keys()
        for name, values in one.items():
            assert torch.equal(values, other[name]), f"{CORPORA[number].name}: {name}"


def with_other_values(batch: Batch, changed: int) -> Batch:
    """Change every step of a corpus, and no length."""
    modalities = {}
    for modality, part in batch.modalities.items():
        sets = {}
        for name, places in owners(batch, modality).items():
            steps = part.sets[name]
            own = batch.corpus[places] == changed
            kind, width = SETS[modality][name]
            values = steps.features.clone()
            values[own] = (values[own] + 1) % width if kind == "tokens" else 3 - 7 * values[own]
            sets[name] = replace(steps, features=values)
        modalities[modality] = replace(part, sets=sets)
    return replace(batch, modalities=modalities)


def inputs_and_predictions(model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What each input layer and head receives, and the predictions."""
    received: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            received[name] = arguments[0].detach().clone()

        return hook

    hooks = [
        module.register_forward_pre_hook(keep(name))
        for name, module in model.named_modules()
        if ".adapters.set_" in name or name.startswith("heads.task_")
    ]
    with torch.no_grad():
        predictions = dict(model(batch).predictions)
    for hook in hooks:
        hook.remove()
    return received, predictions


@pytest.mark.parametrize("training", [False, True], ids=["scored", "trained"])
@settings(max_examples=15)
@given(st.integers(0, 3), st.integers(0, 1000))
def test_other_values_of_a_corpus_change_nothing_that_others_are_predicted_from(
    training: bool, changed: int, seed: int
) -> None:
    model = pooled_model(model_config(dropout=0.0)).train(training)
    batch = collated(MIXED, [seed + place for place in range(len(MIXED))])
    other = with_other_values(batch, changed)
    received, predictions = inputs_and_predictions(model, batch)
    received_then, predictions_then = inputs_and_predictions(model, other)
    assert len([name for name in received if ".adapters." in name]) == 6
    assert len([name for name in received if name.startswith("heads.")]) == len(LAYOUT.heads)
    for modality in batch.modalities:
        for name, places in owners(batch, modality).items():
            (layer,) = [
                key
                for key in received
                if key.startswith(f"encoders.{modality}.adapters.") and key.endswith(name.replace(".", "%2E"))
            ]
            of_others = batch.corpus[places] != changed
            assert torch.equal(received[layer][of_others], received_then[layer][of_others]), layer
    others = batch.corpus != changed
    for name in [key for key in received if key.startswith("heads.")]:
        assert torch.equal(received[name][others], received_then[name][others]), name
    for head, values in predictions.items():
        assert torch.equal(values[others], predictions_then[head][others]), head
        assert not torch.equal(values[~others], predictions_then[head][~others]), "nothing was changed"


@pytest.mark.parametrize("changed", [corpus.name for corpus in CORPORA])
def test_other_data_of_a_corpus_changes_no_statistics_of_the_others(changed: str) -> None:
    def manifest(name: str, mean: float) -> Manifest:
        (corpus,) = [corpus for corpus in CORPORA if corpus.name == name]
        statistics = {
            modality: Statistics(mean=[mean] * SETS[modality][own][1], std=[2.0] * SETS[modality][own][1], steps=9)
            for modality, own in corpus.sets.items()
            if SETS[modality][own][0] == "features"
        }
        return Manifest.create(
            corpus=name, split="train", seed=0, features={}, tasks=corpus.tasks, shards=[], statistics=statistics
        )

    trains = {corpus.name: manifest(corpus.name, number) for number, corpus in enumerate(CORPORA)}
    before, after = (
        pool_spec(LAYOUT, given, ["text", "audio", "vision"])
        for given in (trains, {**trains, changed: manifest(changed, 100.0)})
    )
    for corpus in CORPORA:
        assert before.statistics[corpus.name].keys() == after.statistics[corpus.name].keys()
        for modality, scaling in before.statistics[corpus.name].items():
            equal = all((a == b).all() for a, b in zip(scaling, after.statistics[corpus.name][modality], strict=True))
            assert equal == (corpus.name != changed), f"{modality} of {corpus.name}"
