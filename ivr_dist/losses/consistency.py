"""Consistency: central moment discrepancy between the distributions of the modalities' invariant codes.

Zellinger et al. 2017: ||E x - E y|| + sum over k = 2..K of ||E(x - Ex)^k - E(y - Ey)^k||,
E over the samples of a group that have the modality. Groups are fixed runs of slots, and their moments are summed over
the ranks that hold them, so the value depends neither on the world size nor on gradient accumulation.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.term import BuiltInTerm, MicroStep, Share
from ivr_dist.model.numerics import at_least_float32
from ivr_dist.model.spec import IVROutput


class ConsistencyTerm(BuiltInTerm):
    """Mean over pairs of modalities and groups of slots; every rank computes the same value."""

    name = "consistency"
    section = "loss.consistency"
    needs = ("pooled_shared",)
    replicated = True

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Share:
        """The weighted sum over pairs and groups."""
        return consistency(
            torch.stack(list(output.pooled_shared.values())),
            torch.stack([batch.modalities[name].present for name in output.pooled_shared]),
            step.groups(batch),
            step.group_codes(),
            step.counts.group_codes,
            step.config.loss.consistency.moments,
            step.all_reduce,
        )


def consistency(
    pooled: Tensor,
    present: Tensor,
    group: Tensor,
    micro_counts: Tensor,
    step_counts: Tensor,
    moments: int,
    all_reduce: Callable[[Tensor], Tensor],
) -> Share:
    """Compute one micro-step's share of the discrepancy; every rank gets the same value.

    Args:
        pooled: [M, B, H] time means of the invariant codes of M modalities.
        present: [M, B] bool, samples that have the modality.
        group: [B] each sample's group within the micro-step.
        micro_counts: [g, M] samples by group of this micro-step and modality, over all ranks.
        step_counts: [groups, M] the same for the whole step.
        moments: Highest moment K.
        all_reduce: Differentiable sum over ranks.

    Returns:
        The sum over pairs of modalities and groups, weighted by the smaller of the pair's two counts, to be divided by
        the step's sum of these weights; pairs with a count below 2 drop out (method 3b.4). Float32 at least.
    """
    pooled = at_least_float32(pooled)
    keep = present[..., None].to(pooled.dtype)
    counts = micro_counts.T.to(pooled.device, pooled.dtype).clamp(min=1)[..., None]
    mean = all_reduce(_group_sum(pooled * keep, group, len(micro_counts))) / counts
    # Centered before they are raised: power sums of raw values lose significant digits (method 3b.3).
    centered = (pooled - mean.index_select(1, group)) * keep
    powers = torch.cat([centered**order for order in range(2, moments + 1)]) if moments > 1 else centered[:0]
    sums = all_reduce(_group_sum(powers, group, len(micro_counts)))
    central = sums.view(moments - 1, *mean.shape) / counts

    first, second = _pairs(len(pooled), pooled.device)
    weights = _pair_weights(micro_counts, first.cpu(), second.cpu()).to(pooled.device, pooled.dtype)
    total = _pair_weights(step_counts, first.cpu(), second.cpu()).sum()
    distance = _norm(mean[first] - mean[second]) + _norm(central[:, first] - central[:, second]).sum(dim=0)
    return Share((weights * distance).sum(), total)


def _group_sum(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """[M, B, H] to [M, groups, H]."""
    return values.new_zeros(len(values), groups, values.shape[-1]).index_add_(1, group, values)


def _pairs(modalities: int, device: torch.device) -> tuple[Tensor, Tensor]:
    pairs = torch.tensor(list(combinations(range(modalities), 2)), dtype=torch.long, device=device).view(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _pair_weights(counts: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """[pairs, groups] the smaller count of each pair, 0 where it is below 2."""
    smaller = torch.minimum(counts[:, first], counts[:, second]).T
    return torch.where(smaller >= 2, smaller, smaller.new_zeros(()))


def _norm(difference: Tensor) -> Tensor:
    """Euclidean norm over the last dimension whose gradient at 0 is 0 instead of infinite."""
    square = difference.square().sum(dim=-1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
