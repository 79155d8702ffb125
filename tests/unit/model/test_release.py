"""Preset release against an independent computation of the released code, and its further guarantees."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import AdversaryConfig, Config, LossConfig
from ivr_dist.data.batches.batch import Batch, modality_batch
from ivr_dist.errors import ConfigError
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.parity.parameter_names import release_names
from ivr_dist.shards.specs import TaskSpec
from tests.batches import (
    DIMS,
    TASKS,
    WEIGHTS,
    assert_close_gradients,
    batch_of,
    gradients,
    make_model,
    make_samples,
    mixed_samples,
    norm_of_all,
    release_config,
    terms_of,
)
from tests.released import Sizes, golden

CONFIG = release_config()
GATE = ("fusion.score.", "fusion.bilinear.")


def release(**model: object) -> torch.nn.Module:
    return make_model(release_config(**model).model, loss=CONFIG.loss)


def total(output: IVROutput, batch: Batch) -> Tensor:
    return terms_of(output, batch, CONFIG).total(WEIGHTS, world=1, accumulation=1)


SIZES = st.builds(
    Sizes,
    samples=st.integers(2, 5),
    steps=st.integers(2, 6),
    text=st.integers(1, 9),
    audio=st.integers(1, 8),
    vision=st.integers(1, 8),
    hidden=st.sampled_from([4, 8, 12]),
    outputs=st.integers(1, 3),
)


@settings(max_examples=20, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 10_000))
def test_it_computes_what_the_released_code_does(sizes: Sizes, seed: int) -> None:
    """In float64: prediction, codes, every term and every gradient, at any size."""
    arrays, found = golden(sizes, seed)
    # A gate on its threshold jumps; an epsilon in the norm of the features shows where they vanish.
    assume(found.margin > 1e-9 and found.norm > 0.5)
    kind = TaskSpec(type="classification", classes=sizes.outputs) if sizes.outputs > 1 else TaskSpec(type="regression")
    config = release_config(hidden=sizes.hidden)
    spec = ModelSpec({name: ("features", getattr(sizes, name)) for name in MODALITIES}, {"sentiment": kind})
    model = build_model(config.model, spec, config.loss).double()
    names = release_names(dict(model.named_parameters()), "sentiment")
    assert sorted(names.values()) == sorted(name[6:] for name in arrays if name.startswith("param."))
    model.load_state_dict({own: arrays[f"param.{theirs}"] for own, theirs in names.items()})

    text, label = arrays["in.text"], arrays["in.label"].flatten()
    parts = {"text": text} | {name: arrays[f"in.{name}"].transpose(0, 1) for name in ("audio", "vision")}
    everywhere = torch.ones(text.shape[:2], dtype=torch.bool)
    rows = torch.ones(sizes.samples, dtype=torch.bool)
    batch = Batch(
        keys=tuple(map(str, range(sizes.samples))),
        slots=torch.arange(sizes.samples),
        modalities={name: modality_batch(parts[name], everywhere) for name in MODALITIES},
        labels={"sentiment": label.long() if sizes.outputs > 1 else label},
        label_mask={"sentiment": rows, "type": rows},
    )
    output = model(batch)
    prediction = output.predictions["sentiment"].reshape(sizes.samples, -1)
    torch.testing.assert_close(prediction, arrays["out.prediction"], rtol=1e-9, atol=1e-12)
    for kind_of, codes in (("shared", output.shared), ("private", output.private)):
        for name, code in codes.items():
            theirs = arrays[f"code.{kind_of}.{name}"].transpose(0, 1).flatten(0, 1)
            torch.testing.assert_close(code, theirs, rtol=1e-9, atol=1e-12)
    terms = terms_of(output, batch, config)
    named = {
        "task": "task/sentiment",
        "domain": "adversary",
        "cmd": "consistency",
        "recon": "reconstruction",
        "jsd": "svr/vision",
    }
    for theirs, own in named.items():
        expected = arrays[f"loss.{theirs}"]
        torch.testing.assert_close(
            terms.values[own], expected, rtol=1e-6, atol=1e-12, msg=lambda m, t=theirs: f"{t}: {m}"
        )
    terms.total(WEIGHTS, world=1, accumulation=1).backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in ours.values())
    wanted = {own: arrays[f"grad.{theirs}"] for own, theirs in names.items()}
    assert_close_gradients(ours, wanted, 1e-5)  # type: ignore[arg-type]


def test_every_parameter_but_the_gates_has_a_gradient() -> None:
    """With the gates open: a closed one cuts its modality's cross attention off, as in the released code."""
    model = release().double()
    with torch.no_grad():
        model.fusion.score.bias.fill_(1.0)
    found = gradients(model, batch_of(mixed_samples(12), common=6), total)
    floor = 1e-7 * norm_of_all(found)
    dead = {name for name, gradient in found.items() if float(gradient.norm()) <= floor}
    assert dead == {name for name in found if name.startswith(GATE)}
    assert all(not found[name].any() for name in dead)


def test_one_weight_and_bias_serve_both_gates_and_the_gate_is_0_or_1() -> None:
    model = release()
    batch = batch_of(mixed_samples(6), common=5)
    gates = {name: gate.detach() for name, gate in model(batch).gates.items()}
    assert {float(value) for gate in gates.values() for value in gate.unique()} <= {0.0, 1.0}
    with torch.no_grad():
        model.fusion.score.weight.zero_()
        model.fusion.score.bias.fill_(-1.0)
        assert not any(gate.any() for gate in model(batch).gates.values())
        model.fusion.score.bias.fill_(1.0)
        assert all(gate.all() for gate in model(batch).gates.values())


@pytest.mark.parametrize("reverse", ["shared", "both"])
@pytest.mark.parametrize("preset", ["ivr", "release"])
def test_private_codes_are_reversed_on_request(preset: str, reverse: Literal["shared", "both"]) -> None:
    config = replace((CONFIG if preset == "release" else Config()).model, hidden=8, dropout=0.0)
    model = make_model(config, loss=LossConfig(adversary=AdversaryConfig(reverse=reverse)))
    batch = batch_of(mixed_samples(6), common=5)

    def gradient_of(code: str) -> Tensor:
        output = model(batch)
        adversary = terms_of(output, batch).values["adversary"]
        return torch.autograd.grad(adversary, getattr(output, code)["audio"])[0]

    found = gradient_of("private"), gradient_of("shared")
    model.loss = LossConfig()
    sign = -1 if reverse == "both" else 1
    torch.testing.assert_close(found[0], sign * gradient_of("private"))
    torch.testing.assert_close(found[1], gradient_of("shared"))
    assert found[0].any() and found[1].any()


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(7)), seed=st.integers(0, 1000))
def test_the_order_of_the_samples_changes_nothing(order: list[int], seed: int) -> None:
    """In float64, as for preset ivr."""
    model = make_model(CONFIG.model, seed=seed, loss=CONFIG.loss).double()
    samples = mixed_samples(7, seed=seed)
    plain, permuted = batch_of(samples, common=6), batch_of([samples[i] for i in order], common=6)
    for task in TASKS:
        torch.testing.assert_close(
            model(permuted).predictions[task], model(plain).predictions[task][list(order)], rtol=1e-10, atol=1e-10
        )
    torch.testing.assert_close(total(model(permuted), permuted), total(model(plain), plain), rtol=1e-9, atol=0)
    assert_close_gradients(gradients(model, permuted, total), gradients(model, plain, total), 1e-8)


FULL = {"text": 3, "audio": 2, "vision": 4}
ONES = dict.fromkeys(MODALITIES, 1)


def constant(batch: Batch) -> Batch:
    parts = {m: replace(part, features=torch.ones_like(part.features)) for m, part in batch.modalities.items()}
    return replace(batch, modalities=parts)


EDGES = {
    "one step each": batch_of(make_samples([ONES] * 4), common=1),
    "one sample": batch_of(make_samples([FULL]), common=4),
    "one sample of one step": batch_of(make_samples([ONES]), common=1),
    "audio missing everywhere": batch_of(make_samples([FULL | {"audio": 0}] * 4), common=4),
    "nothing at all": batch_of(make_samples([{}] * 3), common=1),
    "no labels": batch_of(make_samples([FULL] * 3, unlabeled=range(3)), common=4),
    "constant features": constant(batch_of(make_samples([FULL] * 4), common=4)),
    "huge features": batch_of(make_samples([FULL] * 4, scale=1e4), common=4),
    "the same sample repeated": batch_of(make_samples([FULL]) * 4, common=4),
    "empty": batch_of([], common=3),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("codes", ["codes as drawn", "identical codes", "a gate without a direction"])
def test_loss_and_gradient_stay_finite(edge: str, dtype: str, codes: str) -> None:
    model = release()
    zeroed = {"identical codes": ("shared.", "private."), "a gate without a direction": ("fusion.bilinear.",)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(zeroed.get(codes, ("nothing",))):
                parameter.zero_()
    with torch.autocast("cpu", dtype=torch.bfloat16) if dtype == "bfloat16" else nullcontext():
        output = model(EDGES[edge])
    loss = total(output, EDGES[edge])
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_the_forward_pass_also_runs_in_pure_bfloat16() -> None:
    batch = batch_of(mixed_samples(6), common=5)
    loss = total(release().bfloat16()(batch), batch)
    loss.backward()
    assert torch.isfinite(loss)


def test_heads_that_do_not_divide_the_features_fall_back_to_one() -> None:
    found = release(audio={"heads": 2}, vision={"heads": 2})
    assert (DIMS["audio"] % 2, DIMS["vision"] % 2) == (1, 0)
    assert found.encoders["audio"].context.heads == 1
    assert found.encoders["vision"].context.heads == 2
    assert found.fusion.layer.heads == 1


def test_dropout_is_on_in_training_and_off_in_evaluation() -> None:
    model = make_model(release_config(dropout=None).model)
    batch = batch_of(mixed_samples(6), common=5)
    first, second = (model(batch).predictions["sentiment"] for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(batch).predictions["sentiment"], model(batch).predictions["sentiment"])


@pytest.mark.parametrize("kind", ["tokens", "none"])
def test_modalities_it_cannot_take_are_refused(kind: str) -> None:
    features = {name: ("features", 4) for name in ("audio", "vision")}
    features |= {"text": ("tokens", 1)} if kind == "tokens" else {}
    with pytest.raises(ConfigError, match=f"release takes text as feature vectors, the data set has {kind}"):
        build_model(CONFIG.model, ModelSpec(features, TASKS))
