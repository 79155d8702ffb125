"""Central moment discrepancy against a plain loop, including groups without statistics to compare."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ivr_dist.losses.consistency import consistency
from tests.batches import no_reduce

GROUP = 4


def reference(
    pooled: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], group: npt.NDArray[np.int64], moments: int
) -> float:
    """Weighted mean over groups and pairs, written as the definition reads."""
    total = weights = 0.0
    for g in np.unique(group):
        for one, two in combinations(range(len(pooled)), 2):
            x, y = (pooled[m][(group == g) & present[m]] for m in (one, two))
            weight = min(len(x), len(y))
            if weight < 2:
                continue
            distance = np.linalg.norm(x.mean(axis=0) - y.mean(axis=0))
            for k in range(2, moments + 1):
                central = [((z - z.mean(axis=0)) ** k).mean(axis=0) for z in (x, y)]
                distance += np.linalg.norm(central[0] - central[1])
            total += weight * distance
            weights += weight
    return total / max(weights, 1.0)


def counts_of(present: Tensor, group: Tensor, groups: int) -> Tensor:
    return torch.zeros(groups, len(present), dtype=torch.float64).index_add(0, group, present.T.double())


def whole(pooled: Tensor, present: Tensor, group: Tensor, groups: int, moments: int = 5) -> Tensor:
    counts = counts_of(present, group, groups)
    return consistency(pooled, present, group, counts, counts, moments, no_reduce).value()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    modalities=st.integers(1, 3),
    moments=st.integers(1, 6),
    share=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_it_is_the_definition(seed: int, modalities: int, moments: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    group = np.sort(rng.integers(0, 3, size=10))
    present = rng.random((modalities, 10)) < share
    pooled = rng.random((modalities, 10, 6)) * present[..., None]
    found = whole(torch.from_numpy(pooled), torch.from_numpy(present), torch.from_numpy(group), 3, moments)
    assert float(found) == pytest.approx(reference(pooled, present, group, moments), rel=1e-9, abs=1e-15)


def test_micro_steps_add_up_to_the_step() -> None:
    torch.manual_seed(0)
    pooled, present = torch.rand(3, 12, 5).double(), torch.rand(3, 12) < 0.8
    group = torch.arange(12) // GROUP
    counts = counts_of(present, group, 3)
    parts = [
        consistency(
            pooled[:, group == g], present[:, group == g], torch.zeros(GROUP, dtype=torch.long),
            counts[g : g + 1], counts, 5, no_reduce,
        ).value()
        for g in range(3)
    ]  # fmt: skip
    torch.testing.assert_close(torch.stack(parts).sum(), whole(pooled, present, group, 3))


def test_identical_codes_have_no_distance_and_a_finite_gradient() -> None:
    codes = torch.rand(1, 6, 4).expand(3, 6, 4).clone().requires_grad_()
    value = whole(codes, torch.ones(3, 6, dtype=torch.bool), torch.zeros(6, dtype=torch.long), 1)
    assert float(value.detach()) == 0
    value.backward()
    assert codes.grad is not None and torch.isfinite(codes.grad).all()


@pytest.mark.parametrize("present", [[1, 0, 0, 0], [0, 0, 0, 0]])
def test_fewer_than_two_samples_drop_out(present: list[int]) -> None:
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[1] = torch.tensor(present).bool()
    codes = torch.rand(2, 4, 3, requires_grad=True)
    value = whole(codes, mask, torch.zeros(4, dtype=torch.long), 1)
    assert float(value.detach()) == 0
    value.backward()
    assert codes.grad is not None and not codes.grad.any()


def test_every_rank_reduces_twice_also_without_samples() -> None:
    calls: list[tuple[int, ...]] = []

    def watch(tensor: Tensor) -> Tensor:
        calls.append(tuple(tensor.shape))
        return tensor

    for samples in (0, 5):
        mask, group = torch.ones(3, samples, dtype=torch.bool), torch.zeros(samples, dtype=torch.long)
        counts = torch.full((2, 3), 4.0, dtype=torch.float64)
        consistency(torch.rand(3, samples, 6), mask, group, counts, counts, 5, watch)
    assert len(calls) == 4
    assert calls[:2] == calls[2:]


def test_centered_moments_keep_their_digits_in_float32() -> None:
    torch.manual_seed(1)
    # Raw power sums err by 4e-3 here: the variance is a difference of numbers thousands of times its size.
    codes = 0.5 + 1e-2 * torch.randn(2, 64, 8)
    mask, group = torch.ones(2, 64, dtype=torch.bool), torch.zeros(64, dtype=torch.long)
    grads = []
    for dtype in (torch.float64, torch.float32):
        leaf = codes.to(dtype).clone().requires_grad_()
        higher = whole(leaf, mask, group, 1) - whole(leaf, mask, group, 1, moments=1)
        higher.backward()
        assert leaf.grad is not None
        grads.append(leaf.grad.double())
    assert float((grads[1] - grads[0]).norm() / grads[0].norm()) < 1e-5
