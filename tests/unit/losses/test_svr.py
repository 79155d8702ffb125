"""Sequential variation regularization: closed forms, and the definition of neighboring steps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.config import Config, SvrConfig
from ivr_dist.losses.svr import divergence_of_groups, variation
from tests.batches import batch_of, make_model, make_samples, no_reduce, terms_of

KINDS = ("tv_l1", "js", "l2")


def pairs_of(*lengths: int) -> torch.Tensor:
    return batch_of(make_samples([{"text": n} for n in lengths])).modalities["text"].pairs


@given(slope=st.floats(-0.1, 0.1), steps=st.integers(2, 9), width=st.integers(1, 5))
def test_a_ramp_varies_by_its_slope(slope: float, steps: int, width: int) -> None:
    ramp = (0.5 + slope * torch.arange(steps, dtype=torch.float64))[:, None].expand(-1, width)
    pairs = pairs_of(steps)
    # A sum over steps - 1 neighbors; two codes of slopes s and 3 s have the mean 2 s.
    assert float(variation([ramp], pairs, "tv_l1", 1.0)) == pytest.approx((steps - 1) * abs(slope), abs=1e-12)
    both = variation([ramp, 3 * ramp], pairs, "tv_l1", 1.0)
    assert float(both) == pytest.approx((steps - 1) * 2 * abs(slope), abs=1e-12)
    assert float(variation([ramp], pairs, "l2", 1.0)) == pytest.approx((steps - 1) * slope**2, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_sequence_has_none_and_more_variation_costs_more(kind: str) -> None:
    torch.manual_seed(0)
    start, direction = torch.rand(1, 8).double(), torch.randn(5, 8).double()
    found = [float(variation([start + size * direction], pairs_of(5), kind, 1.0)) for size in (0.0, 0.1, 0.2, 0.4)]
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert found == sorted(found) and found[1] > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_only_steps_of_one_sample_are_neighbors(kind: str) -> None:
    codes = torch.cat([torch.full((3, 4), 0.2), torch.full((1, 4), 0.9), torch.full((2, 4), 0.5)])
    codes[:3, 0], codes[4:, 0] = 0.3, 0.1
    assert float(variation([codes], pairs_of(3, 1, 0, 2), kind, 1.0)) == pytest.approx(0, abs=1e-7)
    assert float(variation([codes], pairs_of(6), kind, 1.0)) > 1e-4


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_the_divergence_is_the_textbooks(temperature: float) -> None:
    rng = np.random.default_rng(0)
    private, shared = rng.random((3, 5)), rng.random((3, 5))
    logits = np.concatenate([private, shared], axis=1) / temperature
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = 0.0
    for one, two in pairwise(p):
        middle = (one + two) / 2
        expected += ((one * np.log(one / middle)).sum() + (two * np.log(two / middle)).sum()) / 2
    found = variation([torch.from_numpy(private), torch.from_numpy(shared)], pairs_of(3), "js", temperature)
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_neighbors_no_variation_but_a_gradient(kind: str) -> None:
    for lengths in ((1, 1), ()):
        codes = torch.rand(len(lengths), 4, requires_grad=True)
        value = variation([codes], pairs_of(*lengths), kind, 1.0)
        assert float(value.detach()) == 0
        value.backward()
        assert codes.grad is not None and not codes.grad.any()


def test_it_is_computed_in_float32() -> None:
    codes = torch.rand(4, 6).bfloat16()
    assert variation([codes], pairs_of(4), "tv_l1", 1.0).dtype == torch.float32


def test_the_terms_add_up_to_the_mean_over_modalities_that_have_neighbors() -> None:
    batch = batch_of(make_samples([{"text": 4, "audio": 1, "vision": 3}, {"text": 2, "audio": 1, "vision": 1}]))
    output = make_model()(batch)
    values = terms_of(output, batch).values
    expected = {}
    for name, pairs in (("text", 3 + 1), ("vision", 2)):
        parts = []
        for code in (output.private[name], output.shared[name]):
            change = (code[1:] - code[:-1]).abs().mean(dim=1)
            parts.append(change[batch.modalities[name].pairs].sum() / pairs)
        expected[name] = torch.stack(parts).mean() / 2
        torch.testing.assert_close(values[f"svr/{name}"], expected[name])
    assert values["svr/audio"].item() == 0

    chosen = Config(svr=SvrConfig(modalities=["vision"], codes=["shared"]))
    values = terms_of(output, batch, chosen).values
    assert {name for name in values if name.startswith("svr/")} == {"svr/vision"}
    change = (output.shared["vision"][1:] - output.shared["vision"][:-1]).abs().mean(dim=1)
    torch.testing.assert_close(values["svr/vision"], change[batch.modalities["vision"].pairs].mean())


def test_the_variation_of_groups_is_that_of_their_means_weighted_by_samples() -> None:
    torch.manual_seed(0)
    codes, group = torch.rand(5, 4, 6).double(), torch.tensor([0, 0, 1, 1, 1])
    expected = 0.0
    for number, size in ((0, 2), (1, 3)):
        mean = torch.softmax(codes[group == number] / 0.5, dim=-1).mean(dim=0)
        for one, two in pairwise(mean.numpy()):
            middle = (one + two) / 2
            divergence = ((one * np.log(one / middle)).sum() + (two * np.log(two / middle)).sum()) / 2
            expected += divergence / 3 * size / 5
    counts = torch.tensor([2.0, 3.0, 0.0])
    found = divergence_of_groups([codes[..., :2], codes[..., 2:]], group, counts, torch.tensor(5.0), 0.5, no_reduce)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    alone = divergence_of_groups([codes[:, :1].requires_grad_()], group, counts, torch.tensor(5.0), 0.5, no_reduce)
    assert float(alone.detach()) == 0, "one step has no neighbor"
    alone.backward()


def test_distributions_without_a_common_value_have_a_finite_divergence() -> None:
    codes = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    value = variation([codes], pairs_of(2), "js", 1e-3)
    assert float(value.detach()) == pytest.approx(np.log(2), rel=1e-5)
    value.backward()
    assert codes.grad is not None and torch.isfinite(codes.grad).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(4,), (3, 1, 0, 2), (1, 1), (0,)])
def test_the_gradient_is_that_of_the_variation(kind: str, lengths: tuple[int, ...]) -> None:
    """By finite differences; of two codes, whose steps belong to several samples."""
    torch.manual_seed(0)
    codes = [torch.rand(sum(lengths), 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *both: 7 * variation(both, pairs_of(*lengths), kind, 1.0), codes)
