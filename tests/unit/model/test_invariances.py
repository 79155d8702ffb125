"""Invariances of the model: padding, the order of samples, other samples of the batch, missing modalities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config, EncoderConfig, FusionConfig, ModelConfig, ReconstructionConfig, SvrConfig
from ivr_dist.data.batches.batch import Batch, in_blocks, modality_batch
from ivr_dist.losses.step_counts import StepLayout
from ivr_dist.losses.terms import loss_terms
from tests.batches import (
    TASKS,
    assert_close_gradients,
    batch_of,
    count,
    gradients,
    make_model,
    make_samples,
    mixed_samples,
    model_config,
    no_reduce,
    terms_of,
    total_of,
)

CONTEXTS = ("transformer", "gru", "none")


def with_context(kind: str, **changes: object) -> ModelConfig:
    context = EncoderConfig(kind=kind, heads=2)  # type: ignore[arg-type]
    return model_config(text=context, audio=context, vision=context, **changes)


@settings(max_examples=10)
@given(
    seed=st.integers(0, 1000),
    padding=st.integers(1, 30),
    kind=st.sampled_from(CONTEXTS),
    pooling=st.sampled_from(["mean", "max", "attention"]),
    svr=st.sampled_from(["tv_l1", "js", "l2"]),
    per=st.sampled_from(["step", "pooled"]),
)
def test_padding_changes_nothing(seed: int, padding: int, kind: str, pooling: str, svr: str, per: str) -> None:
    """In float64: gradients that nearly cancel over the samples would show float32's rounding instead."""
    fusion = FusionConfig(heads=2, pooling=pooling)  # type: ignore[arg-type]
    model = make_model(with_context(kind, fusion=fusion), seed=seed).double()
    config = Config(svr=SvrConfig(kind=svr))  # type: ignore[arg-type]
    config = replace(config, loss=replace(config.loss, reconstruction=ReconstructionConfig(per=per)))  # type: ignore[arg-type]
    samples = mixed_samples(6, seed=seed)
    plain, padded = batch_of(samples), batch_of(samples, padding=padding, garbage=7.0)

    outputs = [model(batch) for batch in (plain, padded)]
    for task in TASKS:
        torch.testing.assert_close(outputs[1].predictions[task], outputs[0].predictions[task], rtol=1e-10, atol=1e-10)
    values = [terms_of(*pair, config).values for pair in zip(outputs, (plain, padded), strict=True)]
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name], value, rtol=1e-9, atol=1e-12, msg=name)
    found = [gradients(model, batch, lambda out, b: total_of(out, b, config)) for batch in (plain, padded)]
    assert_close_gradients(found[1], found[0], 1e-8)


@settings(max_examples=6)
@given(order=st.permutations(range(7)), seed=st.integers(0, 1000))
def test_the_order_of_the_samples_changes_nothing(order: list[int], seed: int) -> None:
    """In float64: gradients that nearly cancel over the samples would show float32's rounding instead."""
    model = make_model(seed=seed).double()
    samples = mixed_samples(7, seed=seed)
    plain, permuted = batch_of(samples), batch_of([samples[i] for i in order])
    for task in TASKS:
        torch.testing.assert_close(
            model(permuted).predictions[task], model(plain).predictions[task][list(order)], rtol=1e-10, atol=1e-10
        )
    torch.testing.assert_close(total_of(model(permuted), permuted), total_of(model(plain), plain), rtol=1e-9, atol=0)
    assert_close_gradients(gradients(model, permuted), gradients(model, plain), 1e-8)


@pytest.mark.parametrize("kind", CONTEXTS)
def test_predictions_do_not_depend_on_other_samples(kind: str) -> None:
    model = make_model(with_context(kind))
    samples = mixed_samples(9)
    together = model(batch_of(samples)).predictions["sentiment"]
    alone = torch.cat([model(batch_of([sample])).predictions["sentiment"] for sample in samples])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_valid_steps_need_not_be_contiguous(kind: str) -> None:
    model = make_model(with_context(kind))
    plain = batch_of(make_samples([{"text": 3, "audio": 2, "vision": 4}, {"text": 1, "audio": 2, "vision": 1}]))
    text = plain.modalities["text"]
    spread = torch.full((2, 7, text.features.shape[2]), 9.0)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    spread[0, [1, 4, 6]], mask[0, [1, 4, 6]] = text.features[0, :3], True
    spread[1, 5], mask[1, 5] = text.features[1, 0], True
    gaps = replace(plain, modalities={**plain.modalities, "text": modality_batch(spread, mask)})
    torch.testing.assert_close(
        model(gaps).predictions["sentiment"], model(plain).predictions["sentiment"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("missing", MODALITIES)
def test_missing_modalities_do_not_affect_a_prediction(missing: str) -> None:
    model = make_model()
    full = {"text": 3, "audio": 2, "vision": 4}
    batch = batch_of(make_samples([full | {missing: 0}, full]))
    before = model(batch)
    # All but the norm of F_m = LayerNorm(g_m c_m + P_t), which P_t goes through in any case.
    prefixes = tuple(f"{part}.{missing}." for part in ("encoders", "private", "fusion.cross"))
    own = [
        p for name, p in model.named_parameters() if name.startswith(prefixes) and f".cross.{missing}.norm." not in name
    ]
    with torch.no_grad():
        for parameter in own:
            parameter.add_(torch.randn_like(parameter))
    after = model(batch)
    changed = (after.predictions["sentiment"] - before.predictions["sentiment"]).abs()
    assert changed[0] == 0
    assert changed[1] > 1e-4
    if missing != "text":
        assert (before.gates[missing][0] == 0).all()
        assert (before.gates[missing][1, :3] > 0).all()
    assert (before.pooled_shared[missing][0] == 0).all()


@pytest.mark.parametrize("missing", MODALITIES)
def test_a_modality_that_all_samples_lack_has_no_part_in_any_loss(missing: str) -> None:
    model = make_model()
    full = {"text": 3, "audio": 2, "vision": 4}
    batch = batch_of(make_samples([full | {missing: 0}] * 5))
    output = model(batch)
    left = [name for name in MODALITIES if name != missing]

    def without(batch: Batch) -> Batch:
        return replace(batch, modalities={name: batch.modalities[name] for name in left})

    fields = ("encoded", "shared", "private", "pooled_shared", "logits_shared", "logits_private", "reconstructed")
    reduced = replace(output, **{name: {m: getattr(output, name)[m] for m in left} for name in fields})
    layout = StepLayout(5, 1, 5)
    expected = loss_terms(
        reduced, without(batch), count([without(batch)], layout), layout, Config(), 0, 1, no_reduce
    ).values
    actual = terms_of(output, batch).values
    assert actual.pop(f"svr/{missing}").item() == 0
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-6, atol=0, msg=name)


@pytest.mark.parametrize("modalities", [MODALITIES, ("audio", "vision"), ("text",)])
def test_blocks_of_similar_length_change_nothing(modalities: tuple[str, ...]) -> None:
    """Samples of very different lengths, of which some miss a modality, in one block and in several."""
    lengths = [(90, 3, 120), (2, 0, 1), (0, 40, 7), (70, 70, 70), (1, 1, 1), (5, 90, 0), (0, 0, 0), (12, 80, 9)]
    samples = make_samples([dict(zip(MODALITIES, own, strict=True)) for own in lengths], seed=5)
    one = batch_of(samples, modalities=modalities)
    several = replace(one, modalities=in_blocks(one.modalities))
    assert all(len(part.blocks.shapes) > 1 for part in several.modalities.values())
    model = make_model(modalities=modalities).double()
    outputs = [model(batch) for batch in (one, several)]
    for task in TASKS:
        torch.testing.assert_close(outputs[1].predictions[task], outputs[0].predictions[task], rtol=1e-10, atol=1e-10)
    assert_close_gradients(gradients(model, several), gradients(model, one), 1e-9)
