"""Sequential variation regularization (SVR): penalizes the variation of codes from step to step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ivr_dist.config import Config
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.step_counts import StepCounts, corpus_weights, nonzero_counts, over
from ivr_dist.losses.term import BuiltInTerm, MicroStep, Share
from ivr_dist.model.numerics import at_least_float32
from ivr_dist.model.spec import IVROutput

_EPSILON = 1e-10


class SvrTerm(BuiltInTerm):
    """SVR of each sample, by modality.

    The shares add up to the mean over the chosen modalities that have any neighboring steps; in a pool to that of each
    corpus, weighted by its samples.
    """

    name = "svr"
    section = "loss.svr"
    needs = ("shared", "private")

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> dict[str, Share]:
        """One share a modality."""
        chosen, varying = _regularized(output, step.counts, step.config)
        form, shares = step.config.svr, {}
        if step.layout.corpora:
            weights = corpus_weights({name: step.counts.pairs[name] for name in chosen}, step.counts.shares)
            for name, codes in chosen.items():
                pairs = batch.modalities[name].pairs
                own = weights[name].to(pairs.device).index_select(0, step.corpora(batch, name).index_select(0, pairs))
                total = variation(codes, pairs, form.kind, form.temperature, own)
                shares[name] = Share(total, step.counts.shares.new_ones(()))
            return shares
        for name, codes in chosen.items():
            total = variation(codes, batch.modalities[name].pairs, form.kind, form.temperature)
            shares[name] = Share(over(total, step.counts.pairs[name]), varying)
        return shares


class GroupSvrTerm(SvrTerm):
    """SVR of the mean over each group of slots (`svr.over: batch`), by modality; every rank gets the same values."""

    replicated = True

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> dict[str, Share]:
        """One share a modality."""
        chosen, varying = _regularized(output, step.counts, step.config)
        columns = {name: column for column, name in enumerate(batch.modalities)}
        return {
            name: Share(
                divergence_of_groups(
                    [code.view(*batch.modalities[name].mask.shape, code.shape[-1]) for code in codes],
                    step.groups(batch),
                    step.group_codes()[:, columns[name]],
                    step.counts.group_codes[:, columns[name]].sum(),
                    step.config.svr.temperature,
                    step.all_reduce,
                ),
                varying,
            )
            for name, codes in chosen.items()
        }


def _regularized(output: IVROutput, counts: StepCounts, config: Config) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Codes by modality that SVR acts on, and how many of these modalities have neighboring steps."""
    codes: dict[str, list[Tensor]] = {
        name: [getattr(output, code)[name] for code in config.svr.codes]
        for name in output.shared
        if name in config.svr.modalities
    }
    return codes, nonzero_counts(counts.pairs[name] for name in codes)


def variation(
    codes: Sequence[Tensor], pairs: Tensor, kind: str, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Sum the variation of one modality's codes over neighboring valid steps, in float32 at least.

    Args:
        codes: One or more codes, [N, H] each, of the same N valid steps.
        pairs: [P] positions n such that steps n and n + 1 are neighbors.
        kind: `tv_l1`: mean over widths of |c_{t+1} - c_t|, mean over codes (total variation in one dimension). `l2`:
            the same with squares. `js`: Jensen-Shannon divergence, natural logarithm, of the softmax over all codes
            side by side, as in the released code.
        temperature: Of that softmax.
        weights: [P] weight of each pair; None: 1 for all.
    """
    if kind == "js":
        joined = torch.softmax(at_least_float32(torch.cat(list(codes), dim=-1)) / temperature, dim=-1)
        changes = _divergence(joined.index_select(0, pairs), joined.index_select(0, pairs + 1))
        return changes.sum() if weights is None else (changes * weights.to(changes.dtype)).sum()
    keep = codes[0].new_zeros(max(len(codes[0]) - 1, 0), 1, dtype=at_least_float32(codes[0]).dtype)
    if weights is None:
        keep.index_fill_(0, pairs, 1.0)
    else:
        keep.index_copy_(0, pairs, weights.to(keep.dtype)[:, None])
    order = 1 if kind == "tv_l1" else 2
    changed: Any = _Changes if weights is None else _WeightedChanges
    sums: list[Tensor] = [changed.apply(at_least_float32(code), keep, order) for code in codes]
    return torch.stack(sums).sum() / (codes[0].shape[1] * len(codes))


class _Changes(torch.autograd.Function):
    """Sum of |c_{n+1} - c_n|^order over all N steps of [N, H] where `keep` [N - 1, 1] is 1 and not 0.

    Autograd would save four more tensors of that size, and allocate as many in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, code: Tensor, keep: Tensor, order: int) -> Tensor:
        change = (code[1:] - code[:-1]).mul_(keep)
        ctx.save_for_backward(change)
        ctx.order, ctx.shape = order, code.shape
        return change.abs().sum() if order == 1 else change.square().sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (change,) = ctx.saved_tensors
        pull = (change.sign() if ctx.order == 1 else 2 * change) * grad_outputs[0]
        gradient = pull.new_zeros(ctx.shape)
        gradient[1:] = pull
        gradient[:-1] -= pull
        return gradient, None, None


class _WeightedChanges(torch.autograd.Function):
    """Sum of w_n |c_{n+1} - c_n|^order over all N steps of [N, H], with weights w [N - 1, 1]."""

    @staticmethod
    def forward(ctx: Any, code: Tensor, weights: Tensor, order: int) -> Tensor:
        change = code[1:] - code[:-1]
        ctx.save_for_backward(change, weights)
        ctx.order, ctx.shape = order, code.shape
        return ((change.abs() if order == 1 else change.square()) * weights).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        change, weights = ctx.saved_tensors
        pull = (change.sign() if ctx.order == 1 else 2 * change) * (weights * grad_outputs[0])
        gradient = pull.new_zeros(ctx.shape)
        gradient[1:] = pull
        gradient[:-1] -= pull
        return gradient, None, None


def divergence_of_groups(
    codes: Sequence[Tensor],
    group: Tensor,
    micro_counts: Tensor,
    total: Tensor,
    temperature: float,
    all_reduce: Callable[[Tensor], Tensor],
) -> Tensor:
    """Kind `js` of the mean distribution over the samples of a group, as in the released code.

    Args:
        codes: One or more codes, [B, T, H] each; T is the same on every rank, and every step counts.
        group: [B] each sample's group within the micro-step.
        micro_counts: [g] samples by group of this micro-step, over all ranks.
        total: Samples of the whole step, over all ranks; a scalar.
        temperature: Of the softmax over all codes side by side.
        all_reduce: Differentiable sum over ranks.

    Returns:
        One micro-step's share of the mean over neighboring steps, then over groups, weighted by their samples; every
        rank gets the same value. Scalar, float32 at least; 0 for T = 1.
    """
    joined = torch.softmax(at_least_float32(torch.cat(list(codes), dim=-1)) / temperature, dim=-1)
    counts = micro_counts.to(joined.device, joined.dtype)
    sums = joined.new_zeros(len(counts), *joined.shape[1:]).index_add_(0, group, joined)
    mean = all_reduce(sums) / counts.clamp(min=1)[:, None, None]
    by_group = _divergence(mean[:, :-1], mean[:, 1:]).sum(dim=1) / max(mean.shape[1] - 1, 1)
    return over((by_group * counts).sum(), total)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """JSD of distributions in the last dimension, with 1e-10 added inside the Kullback-Leibler terms."""
    p, q = p + _EPSILON, q + _EPSILON
    middle = (p + q) / 2
    # The logarithm of a ratio near 1: the difference of two logarithms near -5 would lose three digits.
    return 0.5 * ((p * (p / middle).log()).sum(dim=-1) + (q * (q / middle).log()).sum(dim=-1))
