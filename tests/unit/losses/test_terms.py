"""Each loss term against its formula, and sums over terms, ranks and micro-steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config, LossConfig, ReconstructionConfig
from ivr_dist.losses.step_counts import StepLayout, local_counts
from ivr_dist.losses.terms import LossTerms, loss_terms, weight_of
from tests.batches import (
    TASKS,
    WEIGHTS,
    assert_close_gradients,
    batch_of,
    count,
    gradients,
    make_model,
    make_samples,
    mixed_samples,
    no_reduce,
    terms_of,
)


def test_counts_are_what_the_batches_hold() -> None:
    samples = make_samples(
        [{"text": 3, "audio": 1}, {"text": 1, "vision": 4}, {"audio": 2, "vision": 1}], unlabeled=[1]
    )
    layout = StepLayout(global_batch=8, accumulation=2, group=2)
    assert (layout.groups, layout.micro_groups) == (4, 2)
    counts = count([batch_of(samples[:2], [0, 3]), batch_of(samples[2:], [6])], layout)
    assert (counts.samples, counts.codes, counts.nonfinite) == (3, 6, 0)
    assert counts.steps == {"text": 4, "audio": 3, "vision": 5}
    assert counts.pairs == {"text": 2, "audio": 1, "vision": 3}
    assert counts.labels == {"sentiment": 2, "type": 2}
    assert counts.group_codes.tolist() == [[1, 1, 0], [1, 0, 1], [0, 0, 0], [0, 1, 1]]


def test_counts_of_ranks_add_up() -> None:
    samples, layout = mixed_samples(8), StepLayout(8, 1, 4)
    names = (list(MODALITIES), list(TASKS))
    parts = [local_counts([batch_of(samples[a:b], range(a, b))], layout, *names) for a, b in ((0, 5), (5, 8), (8, 8))]
    assert torch.equal(torch.stack(parts).sum(dim=0), local_counts([batch_of(samples)], layout, *names))


def test_inputs_that_are_not_finite_are_counted() -> None:
    samples = make_samples([{"text": 2}] * 2)
    samples[1].features["text"][0, :2] = torch.tensor([float("nan"), float("-inf")])
    assert count([batch_of(samples)], StepLayout(2, 1, 2)).nonfinite == 2


@pytest.mark.parametrize("kind", ["mse", "mae", "huber"])
def test_task_losses_are_means_over_the_labeled_samples(kind: Any) -> None:
    samples = mixed_samples(7)
    batch = batch_of(samples)
    output = make_model()(batch)
    values = terms_of(output, batch, Config(loss=LossConfig(regression=kind))).values
    labeled = [row for row, sample in enumerate(samples) if sample.labels]
    assert 0 < len(labeled) < len(samples)
    errors = []
    for row in labeled:
        error = abs(output.predictions["sentiment"][row].item() - samples[row].labels["sentiment"])
        huber = 0.5 * error**2 if error < 1 else error - 0.5
        errors.append({"mse": error**2, "mae": error, "huber": huber}[kind])
    assert values["task/sentiment"].item() == pytest.approx(np.mean(errors), rel=1e-5)
    logits = output.predictions["type"].detach().double().numpy()
    entropies = []
    for row in labeled:
        shares = np.exp(logits[row]) / np.exp(logits[row]).sum()
        entropies.append(-np.log(shares[int(samples[row].labels["type"])]))
    assert values["task/type"].item() == pytest.approx(np.mean(entropies), rel=1e-5)


def test_the_adversary_is_the_additive_margin_softmax() -> None:
    samples = mixed_samples(7)
    batch = batch_of(samples)
    output = make_model()(batch)
    expected = 2 * 0.01 * output.class_penalty.item()
    for logits in (output.logits_shared, output.logits_private):
        losses = []
        for label, name in enumerate(MODALITIES):
            for row, sample in enumerate(samples):
                if name in sample.features:
                    cosines = logits[name][row].detach().double().numpy().copy()
                    cosines[label] -= 0.5
                    losses.append(np.log(np.exp(30 * cosines).sum()) - 30 * cosines[label])
        expected += np.mean(losses)
    assert terms_of(output, batch).values["adversary"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("per", ["step", "pooled"])
def test_reconstruction_is_from_each_steps_codes_or_from_their_mean(per: Any) -> None:
    samples = mixed_samples(7)
    batch = batch_of(samples)
    config = Config(loss=LossConfig(reconstruction=ReconstructionConfig(per=per)))
    model = make_model(loss=config.loss)
    output = model(batch)
    expected = []
    for name in MODALITIES:
        codes = output.shared[name] + output.private[name]
        if per == "pooled":
            rows = [sample.features[name] for sample in samples if name in sample.features]
            means = [
                part.mean(dim=0, keepdim=True).expand(len(part), -1) for part in codes.split([len(r) for r in rows])
            ]
            codes = torch.cat(means)
        expected.append((model.reconstruct[name](codes) - output.encoded[name]).square().mean())
    found = terms_of(output, batch, config).values["reconstruction"]
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_losses_are_float32_for_any_type_of_codes() -> None:
    model = make_model()
    batch = batch_of(mixed_samples(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch)
        values = terms_of(output, batch).values
    assert output.shared["text"].dtype == torch.bfloat16
    assert {value.dtype for value in values.values()} == {torch.float32}


def test_a_weight_is_the_terms_own_or_its_familys() -> None:
    weights = {"task": 1.0, "task/sentiment": 3.0, "svr": 0.5}
    assert [weight_of(name, weights) for name in ("task/sentiment", "task/type", "svr/audio")] == [3.0, 1.0, 0.5]


def test_terms_are_scaled_for_an_average_over_ranks_and_micro_steps() -> None:
    terms = LossTerms({"task/x": torch.tensor(2.0), "consistency": torch.tensor(10.0), "svr/text": torch.tensor(1.0)})
    weights = {"task": 1.0, "consistency": 0.5, "svr": 4.0}
    assert float(terms.total(weights, world=3, accumulation=2)) == 6 * 2.0 + 2 * 0.5 * 10.0 + 6 * 4.0
    assert float(terms.family("svr", weights, 3)) == 4.0
    assert float(terms.family("adversary", weights, 3)) == 0.0
    assert terms.shares(world=4).tolist() == [2.0, 2.5, 1.0]
    alike = LossTerms({"svr/text": torch.tensor(3.0)}, frozenset({"svr/text"}))
    assert float(alike.total(weights, world=3, accumulation=2)) == 2 * 4.0 * 3.0
    assert float(alike.family("svr", weights, 3)) == 4.0
    assert alike.shares(world=3).tolist() == [1.0]


def shares_and_gradients(accumulation: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A step of 12 slots in groups of 3, of which slots 4 and 11 are empty, in micro-steps in one process."""
    samples, slots = mixed_samples(10), [s for s in range(12) if s not in (4, 11)]
    layout = StepLayout(12, accumulation, 3)
    edge = 12 // accumulation
    batches = []
    for micro in range(accumulation):
        rows = [row for row, slot in enumerate(slots) if slot // edge == micro]
        batches.append(batch_of([samples[r] for r in rows], [slots[r] for r in rows]))
    counts, model = count(batches, layout), make_model().double()
    shares = torch.zeros((), dtype=torch.float64)
    total: dict[str, Tensor] = {}
    for micro, batch in enumerate(batches):
        terms = loss_terms(model(batch), batch, counts, layout, Config(), micro, 1, no_reduce)
        shares = shares + terms.shares(1)
        found = gradients(model, batch, lambda out, b: loss_terms(
            out, b, counts, layout, Config(), micro, 1, no_reduce  # noqa: B023
        ).total(WEIGHTS, 1, accumulation))  # fmt: skip
        total = {name: total.get(name, torch.zeros(())) + part / accumulation for name, part in found.items()}
    return shares, total


@pytest.mark.parametrize("accumulation", [2, 4])
def test_micro_steps_change_neither_values_nor_gradients(accumulation: int) -> None:
    expected, found = shares_and_gradients(1), shares_and_gradients(accumulation)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=0)
    assert_close_gradients(found[1], expected[1], 1e-9)


def test_a_modality_of_one_sample_leaves_other_terms_alone() -> None:
    batch = batch_of(make_samples([{"text": 2, "audio": 2}, {"text": 2}, {"text": 1}]))
    output = make_model()(batch)
    values = terms_of(output, batch).values
    assert values["consistency"].item() == 0, "a single sample has no statistics"
    louder = replace(output, pooled_shared={**output.pooled_shared, "audio": output.pooled_shared["audio"] * 2})
    assert terms_of(louder, batch).values["consistency"].item() == 0
