"""Every parameter gets a gradient, and no input makes a loss or a gradient infinite."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config, EncoderConfig, FusionConfig, ModelConfig
from ivr_dist.data.batches.batch import Batch
from tests.batches import (
    WEIGHTS,
    batch_of,
    gradients,
    make_model,
    make_samples,
    mixed_samples,
    model_config,
    norm_of_all,
    release_config,
    terms_of,
    total_of,
)

FULL = {"text": 3, "audio": 2, "vision": 4}


def fusion(**changes: Any) -> ModelConfig:
    return model_config(fusion=FusionConfig(**changes))


def contexts(**changes: Any) -> ModelConfig:
    encoder = EncoderConfig(**changes)
    return model_config(text=encoder, audio=encoder, vision=encoder)


CONFIGS = {
    "default": model_config(),
    "two layers": replace(contexts(layers=2), fusion=FusionConfig(layers=2)),
    "gru": contexts(kind="gru"),
    "no context": contexts(kind="none"),
    "straight-through gate": fusion(gate="straight_through"),
    "no gate": fusion(gate="none"),
    "shared content": fusion(content="shared"),
    "both codes as content": fusion(content="both"),
    "attention pooling": fusion(pooling="attention"),
    "max pooling": fusion(pooling="max"),
    "no fusion layer": fusion(layers=0),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_has_a_gradient(name: str) -> None:
    # In float64, so that rounding residue cannot pass for a gradient.
    model = make_model(CONFIGS[name]).double()
    found = gradients(model, batch_of(mixed_samples(12)))
    floor = 1e-7 * norm_of_all(found)
    assert [name for name, gradient in found.items() if float(gradient.norm()) <= floor] == []


@pytest.mark.parametrize("modalities", [("text",), ("vision",), ("text", "audio"), ("audio", "vision")])
def test_every_parameter_has_a_gradient_on_any_data_set(modalities: Sequence[str]) -> None:
    model = make_model(modalities=modalities).double()
    # The last sample has none of the modalities, so that the placeholder is needed in each case.
    samples = [*make_samples([FULL] * 5), *make_samples([{}])]
    found = gradients(model, batch_of(samples, modalities=modalities))
    floor = 1e-9 * norm_of_all(found)
    dead = {name for name, gradient in found.items() if float(gradient.norm()) <= floor}
    # Without text the fused sequence is the placeholder's one step, and the weights of attention to one key are fixed.
    own = "fusion.layers.0.attention"
    assert dead == (set() if "text" in modalities else {f"{own}.query_weight", f"{own}.key_weight"})


def test_the_hard_gate_alone_does_not_learn() -> None:
    found = gradients(make_model(fusion(gate="hard")).double(), batch_of(mixed_samples(12)))
    dead = {name for name, gradient in found.items() if float(gradient.norm()) == 0}
    assert dead == {name for name in found if ".gate." in name} != set()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("modalities", [MODALITIES, ("text",), ("audio", "vision")])
def test_an_empty_batch_gives_zero_gradients_to_all(name: str, modalities: Sequence[str]) -> None:
    model = make_model(CONFIGS[name], modalities)
    found = gradients(model, batch_of([], modalities=modalities))
    penalty = found.pop("discriminator.classes")
    assert float(penalty.norm()) > 0, "the class penalty does not depend on the batch"
    assert {name for name, gradient in found.items() if gradient.any()} == set()


def constant(batch: Batch) -> Batch:
    parts = {
        name: replace(part, features=torch.where(part.mask[..., None], 1.0, 0.0).expand_as(part.features))
        for name, part in batch.modalities.items()
    }
    return replace(batch, modalities=parts)


EDGES = {
    "one step each": batch_of(make_samples([dict.fromkeys(MODALITIES, 1)] * 4)),
    "one sample": batch_of(make_samples([FULL])),
    "one sample of one step": batch_of(make_samples([dict.fromkeys(MODALITIES, 1)])),
    "no text anywhere": batch_of(make_samples([FULL | {"text": 0}] * 4)),
    "text alone": batch_of(make_samples([{"text": 3}] * 4)),
    "nothing at all": batch_of(make_samples([{}] * 3)),
    "a modality in a single sample": batch_of(make_samples([FULL, *[FULL | {"audio": 0}] * 3])),
    "no labels": batch_of(make_samples([FULL] * 3, unlabeled=range(3))),
    "one step of audio against many of text": batch_of(make_samples([{"text": 40, "audio": 1}] * 3)),
    "constant features": constant(batch_of(make_samples([FULL] * 4))),
    "huge features": batch_of(make_samples([FULL] * 4, scale=1e4)),
    "the same sample repeated": batch_of(make_samples([FULL]) * 4),
    "empty": batch_of([]),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["default", "gru", "attention pooling", "straight-through gate"])
def test_loss_and_gradient_stay_finite(edge: str, dtype: str, name: str) -> None:
    model = make_model(CONFIGS[name])
    batch = EDGES[edge]
    with torch.autocast("cpu", dtype=torch.bfloat16) if dtype == "bfloat16" else nullcontext():
        output = model(batch)
    loss = total_of(output, batch)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_identical_codes_are_finite(dtype: str) -> None:
    model = make_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("shared.", "private.")):
                parameter.zero_()
    batch = batch_of(make_samples([FULL] * 4))
    with torch.autocast("cpu", dtype=torch.bfloat16) if dtype == "bfloat16" else nullcontext():
        output = model(batch)
    assert (output.shared["text"] == 0.5).all()
    loss = total_of(output, batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_forward_pass_also_runs_in_pure_bfloat16() -> None:
    model = make_model().bfloat16()
    batch = batch_of(mixed_samples(6))
    loss = total_of(model(batch), batch)
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("preset", ["ivr", "release"])
def test_a_bfloat16_step_has_the_losses_of_float32(preset: str) -> None:
    """Term by term to 1e-2, on a model of the width in use; the gradient stays finite."""
    if preset == "release":
        config = release_config(hidden=128)
        batch = batch_of(mixed_samples(16), common=6)
    else:
        config, batch = Config(model=model_config(hidden=128)), batch_of(mixed_samples(16))
    model = make_model(config.model, loss=config.loss)
    exact = terms_of(model(batch), batch, config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = terms_of(model(batch), batch, config)
    for name, value in exact.values.items():
        assert float(rough.values[name]) == pytest.approx(float(value), rel=1e-2), name
    rough.total(WEIGHTS, world=1, accumulation=1).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
