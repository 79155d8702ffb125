"""Dropout from raw random bits: rate, independence, gradient."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from ivr_dist.model.dropout import Bits, Dropout, drawn_seed, drop, drop_threshold, zero_below


def assert_dropped(mask: torch.Tensor, rate: float) -> None:
    """The rate overall and in every column, and no correlation between neighbors; bounds of 4 to 5 deviations."""
    dropped = mask.numpy()
    deviation = math.sqrt(rate * (1 - rate))
    assert abs(dropped.mean() - rate) < 4 * deviation / math.sqrt(dropped.size)
    assert np.abs(dropped.mean(axis=0) - rate).max() < 5 * deviation / math.sqrt(len(dropped))
    centered = dropped - rate
    for shift in ((0, 1), (0, 2), (1, 0), (512, 0)):
        product = (centered * np.roll(centered, shift, axis=(0, 1))).mean() / deviation**2
        assert abs(product) < 5 / math.sqrt(dropped.size), shift


@pytest.mark.parametrize("rate", [1e-3, 0.1, 0.3, 0.49, 0.6])
def test_values_are_dropped_at_the_rate_and_the_others_scaled(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(3000, 333, requires_grad=True)
    out = Dropout(rate)(x)
    mask = out == 0
    assert_dropped(mask, rate)
    torch.testing.assert_close(out[~mask], torch.full_like(out[~mask], 1 / (1 - rate)))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out.detach()), "of a sum, the gradient is the mask itself"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_rests_in_evaluation_and_repeats_with_the_seed(dtype: torch.dtype) -> None:
    layer, x = Dropout(0.4), torch.randn(7, 5, dtype=dtype)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(layer(x))
    assert torch.equal(*drawn) and drawn[0].dtype == dtype
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_gradients_of_any_layout_go_through() -> None:
    x = torch.randn(6, 4, requires_grad=True)
    torch.manual_seed(0)
    whole = Dropout(0.3)(x)
    (expected,) = torch.autograd.grad((whole * torch.ones(6, 4)).sum(), x, retain_graph=True)
    for gradient in (torch.ones(1, 1).expand(6, 4), torch.ones(4, 6).t()):
        (found,) = torch.autograd.grad(whole, x, gradient, retain_graph=True)
        assert torch.equal(found, expected)
    assert Dropout(0.3)(torch.zeros(0, 4)).shape == (0, 4)


def test_the_threshold_is_exact_in_bit_patterns() -> None:
    for rate in (2**-32, 2**-20, 0.1, 0.49):
        pattern = torch.tensor(drop_threshold(rate)).view(torch.int32).item() % 2**32
        assert 0xFF800000 - pattern + 1 == round(rate * 2**32), "from -infinity up to the threshold itself"


def test_patterns_that_are_no_numbers_are_kept_wherever_they_stand() -> None:
    """In the part of a tensor that is processed by vectors as in the rest behind it."""
    threshold = drop_threshold(0.3)
    for pattern in (0x7FC00000, -0x400000, 0x7F800001):
        bits = torch.full((37,), pattern, dtype=torch.int32).view(torch.float32)
        assert bits.isnan().all()
        kept = torch.ones(37)
        zero_below(kept, bits, threshold)
        assert kept.all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 1001])
def test_any_count_is_drawn_and_repeats_with_the_seed(count: int) -> None:
    def dropped() -> torch.Tensor:
        return drop(torch.ones(count), Bits(drawn_seed()).draw(count), 0.3)

    torch.manual_seed(0)
    first, second = dropped(), dropped()
    torch.manual_seed(0)
    assert torch.equal(dropped(), first)
    if count > 1000:
        assert not torch.equal(first, second), "the next seed gives another mask"
        bits = Bits(1)
        one, other = (drop(torch.ones(count), bits.draw(count), 0.3) for _ in range(2))
        assert not torch.equal(one, other), "a stream goes on"


def test_halves_that_share_drawn_words_decide_independently() -> None:
    torch.manual_seed(0)
    count, rate = 4_000_000, 0.1
    kept = drop(torch.ones(count), Bits(drawn_seed()).draw(count), rate).double()
    first, second = (1 - kept).view(2, -1) - rate
    assert abs((first * second).mean()) / (rate * (1 - rate)) < 4 / math.sqrt(count / 2)


def test_compiled_it_is_dropout_and_layers_of_one_shape_draw_on_their_own() -> None:
    """By the partitioner of a training graph, which takes calls of an operator with equal arguments for one."""

    def two(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return first(x), second(x)

    first, second = Dropout(0.3), Dropout(0.3)
    compiled = torch.compile(two, backend="aot_eager_decomp_partition", fullgraph=True)
    x = torch.ones(900, 333, requires_grad=True)
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(compiled(x))
    masks = [out == 0 for out in (*drawn[0], *compiled(x))]
    for mask in masks:
        assert_dropped(mask, 0.3)
    assert all(not torch.equal(one, other) for one, other in combinations(masks, 2))
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True)), "it repeats with the seed"
    (gradient,) = torch.autograd.grad(drawn[0][0].sum(), x)
    assert torch.equal(gradient, drawn[0][0].detach())
