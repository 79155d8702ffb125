"""Matrix products by oneDNN equal plain ones, and are counted by PyTorch's flop counter."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ivr_dist.model import onednn


@pytest.fixture(params=[True, False], ids=["oneDNN", "plain"])
def by_onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    found: bool = request.param
    assert onednn._HAS_ONEDNN or not found, "this build of PyTorch has no oneDNN: training is slower with it"
    monkeypatch.setattr(onednn, "_HAS_ONEDNN", found)
    return found


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 300])
def test_a_linear_layer(by_onednn: bool, rows: int, relu: bool) -> None:
    torch.manual_seed(rows)
    x, weight, bias = torch.randn(rows, 35), torch.randn(35, 64).t(), torch.randn(64)
    expected = F.linear(x.double(), weight.double(), bias.double())
    expected = expected.relu() if relu else expected
    with FlopCounterMode(display=False) as counter:
        found = onednn.linear(x, weight, bias, relu=relu)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert counter.get_total_flops() == 2 * rows * 35 * 64


@pytest.mark.parametrize("rows", [0, 300])
@pytest.mark.parametrize(("wide", "narrow"), [(400, 35), (64, 64)])
def test_gradients_of_weights(by_onednn: bool, wide: int, narrow: int, rows: int) -> None:
    torch.manual_seed(rows)
    upper, lower = torch.randn(rows, wide), torch.randn(rows, narrow)
    expected = upper.double().t() @ lower.double()
    for found in (onednn.weight_gradient(upper, lower), onednn.weight_gradient(lower, upper).t()):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
