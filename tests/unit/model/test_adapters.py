"""Input layers by feature set: names, order of steps, and gradients of all of them after any batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.config import EncoderConfig
from ivr_dist.model.adapters import Adapters, module_name, set_name
from ivr_dist.model.encoder import ModalityEncoder
from ivr_dist.model.padded_steps import SequenceLayout
from tests.batches import batch_of, make_samples

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
