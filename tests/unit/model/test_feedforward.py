"""The blocked feed-forward layer equals the four plain operations, forward and backward, with correct dropout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ivr_dist.model import feedforward
from ivr_dist.model.feedforward import FeedForward
from tests.unit.model.test_dropout import assert_dropped


def gradients(layer: FeedForward, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    found = torch.autograd.grad((layer(x) * weight).sum(), [x, *layer.parameters()])
    return [part.double() for part in found]


def whole_numbers(*shape: int) -> torch.Tensor:
    return torch.randint(-2, 3, shape).float()


@settings(max_examples=25)
@given(
    rows=st.sampled_from([0, 1, 700, 2048, 2049, 4100]),
    width=st.integers(1, 40),
    hidden=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_blocks_are_the_plain_operations(rows: int, width: int, hidden: int, seed: int) -> None:
    """Of whole numbers all sums are exact, in any order, and the gradients equal to the bit; also at ReLU's corner."""
    torch.manual_seed(seed)
    layer = FeedForward(width, hidden, 0.0)
    x = torch.randn(rows, width)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.double()(x.double()).float(), rtol=1e-4, atol=1e-5)
        for parameter in layer.float().parameters():
            parameter.copy_(whole_numbers(*parameter.shape))
    x, weight = whole_numbers(rows, width), whole_numbers(rows, width)
    ours = gradients(layer, x, weight)
    theirs = gradients(layer.double(), x.double(), weight.double())  # float64 takes the plain way
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rate", [0.1, 0.489])
def test_hidden_values_are_dropped_at_the_rate(rate: float) -> None:
    """Also across blocks: an odd width, so that a block's bits end in the middle of a drawn word."""
    torch.manual_seed(1)
    rows, hidden = 4000, 257
    layer = FeedForward(1, hidden, rate)
    with torch.no_grad():
        layer.widen_weight.zero_()
        layer.widen_bias.fill_(1.0)
    result = feedforward._Blocks.apply(torch.zeros(rows, 1, requires_grad=True), *layer.parameters(), rate, 7)  # type: ignore[no-untyped-call]
    assert_dropped(result.grad_fn.saved_tensors[3] == 0, rate)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_gradient_belongs_to_the_mask_that_was_drawn(compiled: bool) -> None:
    """With the mask read off the result, dropout is the plain one with that very mask."""
    torch.manual_seed(0)
    layer, rate, rows = FeedForward(64, 64, 0.3), 0.3, 2300
    if compiled:
        layer.compile(backend="aot_eager_decomp_partition", fullgraph=True)
    with torch.no_grad():
        layer.narrow_weight.copy_(torch.eye(64))
        layer.narrow_bias.zero_()
    x, weight = torch.randn(rows, 64).requires_grad_(), torch.randn(rows, 64)
    out = layer(x)
    mask = (out != 0).float()
    ours = torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])
    hidden = torch.relu(F.linear(x, layer.widen_weight, layer.widen_bias))
    plain = F.linear(hidden * mask / (1 - rate), layer.narrow_weight, layer.narrow_bias)
    torch.testing.assert_close(out, plain)
    for one, other in zip(ours, torch.autograd.grad((plain * weight).sum(), [x, *layer.parameters()]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_evaluation_and_a_repeated_seed_repeat_themselves() -> None:
    layer, x = FeedForward(8, 16, 0.4), torch.randn(700, 8)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(layer(x))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], layer(x))
    layer.eval()
    plain = F.linear(F.linear(x, layer.widen_weight, layer.widen_bias).relu(), layer.narrow_weight, layer.narrow_bias)
    assert torch.equal(layer(x), plain), "evaluation rounds as the plain operations do"
