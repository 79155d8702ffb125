"""Input layers by feature set: names, order of steps, and gradients of all of them after any batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.config import Config, EncoderConfig
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.terms import loss_terms
from ivr_dist.model.adapters import AdaptedModel, Adapters, module_name, set_name, with_two_steps
from ivr_dist.model.build import build_model
from ivr_dist.model.encoder import ModalityEncoder
from ivr_dist.model.padded_steps import SequenceLayout
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.planning.pool_layout import PoolLayout
from tests.batches import WEIGHTS, assert_close_gradients, batch_of, make_samples, model_config, no_reduce
from tests.extension_parts import Averages
from tests.pooled_batches import CORPORA, LAYOUT, pooled_batch, pooled_model

SETS = {"a.v1": ("features", 3), "b": ("tokens", 5), "c": ("features", 3)}


@given(st.text(min_size=1))
def test_names_of_sets_survive_as_names_of_modules(name: str) -> None:
    assert set_name(module_name(name)) == name
    assert "." not in module_name(name)
    torch.nn.ModuleDict({module_name(name): torch.nn.Identity()})


def inputs(counts: tuple[int, int, int]) -> list[torch.Tensor]:
    first, second, third = counts
    return [torch.randn(first, 3), torch.randint(0, 6, (second,)), torch.randn(third, 3)]


@pytest.mark.parametrize("counts", [(2, 3, 1), (0, 4, 0), (0, 0, 0), (5, 0, 0)])
def test_every_set_runs_and_steps_come_in_their_order(counts: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    adapters = Adapters(SETS, 4)
    features = inputs(counts)
    order = torch.randperm(sum(counts))
    found = adapters(features, order)
    layers = list(adapters.values())
    expected = torch.cat([layer(own) for layer, own in zip(layers, features, strict=True)])
    torch.testing.assert_close(found, expected[order])
    found.sum().backward()
    for name, parameter in adapters.named_parameters():
        assert parameter.grad is not None, name
    if counts[0] == 0:
        assert adapters[module_name("a.v1")].weight.grad.abs().sum() == 0


def test_one_set_keeps_the_names_of_checkpoints_without_adapters() -> None:
    config = EncoderConfig(kind="none")
    options = {"dropout": 0.0, "input_dropout": 0.0, "feature_dropout": 0.0}
    one = ModalityEncoder({"": ("features", 3)}, 4, config, **options)
    several = ModalityEncoder(SETS, 4, config, **options)
    assert {"project.weight", "project.bias"} <= {name for name, _ in one.named_parameters()}
    own = {name for name, _ in several.named_parameters()}
    assert {"adapters.set_a%2Ev1.weight", "adapters.set_b.weight"} <= own and not any("project" in n for n in own)


def test_an_encoder_of_several_sets_equals_that_of_each_step() -> None:
    torch.manual_seed(0)
    config = EncoderConfig(kind="none")
    encoder = ModalityEncoder(SETS, 4, config, dropout=0.0, input_dropout=0.0, feature_dropout=0.0).eval()
    layout = SequenceLayout.of(batch_of(make_samples([{"text": 6}])).modalities["text"])
    features, order = inputs((2, 3, 1)), torch.tensor([3, 0, 5, 1, 2, 4])
    found = encoder(features, layout, order)
    projected = encoder.adapters(features, order)
    torch.testing.assert_close(found, encoder.norm(torch.relu(encoder.encode(projected))))


def pooled_gradients(model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """Gradients of the total loss of a step; fails where a parameter has none."""
    names, heads = list(batch.modalities), list(LAYOUT.heads)
    layout = StepLayout(len(batch) or 1, 1, len(batch) or 1, CORPORA)
    counts = StepCounts.from_vector(local_counts([batch], layout, names, heads), layout, names, heads)
    model.zero_grad()
    output: IVROutput = model(batch)
    loss_terms(output, batch, counts, layout, Config(), 0, 1, no_reduce).total(WEIGHTS, 1, 1).backward()
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found


@pytest.mark.parametrize("corpora", [[0, 1, 2, 3] * 3, [0] * 4, [1] * 4, [2] * 4, [3] * 4, [1], []])
@pytest.mark.parametrize("kind", ["preset", "class"])
def test_every_parameter_has_a_gradient_after_any_batch(corpora: list[int], kind: str) -> None:
    outside = {"class": "tests.extension_parts:Averages"} if kind == "class" else ""
    model = pooled_model(model_config(class_=outside))
    found = pooled_gradients(model, pooled_batch(corpora))
    read = {own for number in corpora for own in CORPORA[number].sets.values()}
    for name, gradient in found.items():
        *_, layer, _ = name.split(".")
        if layer.startswith("set_") and set_name(layer) not in read:
            assert not gradient.any(), name
        elif layer.startswith("set_") and len(corpora) == 12:
            assert gradient.any(), name


@pytest.mark.parametrize("corpora", [[0, 1, 2, 3] * 2, [0, 3], [1] * 3, [2], [3, 3], []])
def test_steps_that_are_added_for_the_compiler_change_nothing(corpora: list[int]) -> None:
    made = pooled_batch(corpora)
    extended = with_two_steps(made)
    for name, part in extended.modalities.items():
        own = made.modalities[name]
        assert all(len(steps.features) >= 2 for steps in part.sets.values())
        assert part.order is not None and own.order is not None and len(part.order) == len(own.order)
    model = pooled_model(model_config())
    for name, value in model(made).predictions.items():
        torch.testing.assert_close(model(extended).predictions[name], value)
    assert_close_gradients(pooled_gradients(model, extended), pooled_gradients(model, made), 1e-6)


def test_a_corpus_does_not_reach_the_input_layers_of_others() -> None:
    """Each sample's prediction is that of a batch of its own, whatever else is in the batch."""
    model = pooled_model(model_config()).eval()
    together = model(pooled_batch([0, 1, 2, 3] * 3)).predictions
    for slot in range(12):
        alone = model(pooled_batch([slot % 4], [slot])).predictions
        for head, value in alone.items():
            torch.testing.assert_close(together[head][slot], value[0], rtol=1e-4, atol=1e-6)


class Sizes(Averages):
    """Keeps the batch that it was given."""

    def forward(self, batch: Batch) -> IVROutput:
        self.batch = batch
        return super().forward(batch)


def test_a_model_from_outside_reads_padded_features_of_one_width() -> None:
    spec = ModelSpec.of(LAYOUT)
    inner_spec = ModelSpec(dict.fromkeys(spec.features, ("features", 8)), spec.tasks)
    inner = Sizes(inner_spec)
    model = AdaptedModel(inner, spec, 8, None)
    made = pooled_batch([0, 1, 2, 3, 0, 1])
    assert set(model(made).predictions) == {"sentiment", "mood"}
    for name, part in inner.batch.modalities.items():
        own = made.modalities[name]
        assert part.features.shape == (*own.mask.shape, 8) and not part.sets and part.order is None
        assert torch.equal(part.mask, own.mask) and not part.features[~own.mask].any()
        assert own.order is not None
        projected = model.inputs[name]([steps.features for steps in own.sets.values()], own.order)
        torch.testing.assert_close(part.features[own.mask], projected)


def test_a_modality_of_one_set_keeps_its_form_for_a_model_from_outside_without_others() -> None:
    """Without several sets in any modality the class reads the features as they are."""
    layout = PoolLayout(
        corpora=CORPORA[:1],
        sets={modality: {own: LAYOUT.sets[modality][own]} for modality, own in CORPORA[0].sets.items()},
        heads=LAYOUT.heads,
        scale="unit",
        is_pool=True,
    )
    spec = ModelSpec.of(layout)
    assert not spec.sets and spec.features == {
        "text": ("features", 6),
        "audio": ("features", 5),
        "vision": ("features", 4),
    }
    named = model_config(class_="tests.extension_parts:Averages")
    assert isinstance(build_model(named, spec), Averages)
