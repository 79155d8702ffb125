"""All terms of one micro-step, and the sum that goes into backward.

R ranks, A micro-steps. DeepSpeed averages gradients over ranks and divides by A, so a term that is a local sum over a
global count is multiplied by R * A, and one that every rank computes alike from reduced moments by A only
(method 3b.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ivr_dist.config import Config, LossConfig
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.adversary import PENALTY, adversary
from ivr_dist.losses.consistency import consistency
from ivr_dist.losses.step_counts import StepCounts, StepLayout, over
from ivr_dist.losses.svr import divergence_of_groups, variation
from ivr_dist.model.numerics import at_least_float32
from ivr_dist.model.spec import IVROutput

CONSISTENCY = "consistency"


def weight_of(name: str, weights: Mapping[str, float]) -> float:
    """Weight of a term: its own, or that of its family (`svr/audio` belongs to `svr`)."""
    return weights[name] if name in weights else weights[name.partition("/")[0]]


@dataclass(frozen=True)
class LossTerms:
    """One micro-step's share of each term: over micro-steps and ranks they add up to the term of the global batch."""

    values: dict[str, Tensor]
    """Scalars by name: `task/NAME`, `consistency`, `adversary`, `reconstruction`, `svr/MODALITY`."""
    replicated: frozenset[str] = frozenset({CONSISTENCY})
    """Terms that every rank computes alike from moments summed over the ranks; the others are this rank's share."""

    def total(self, weights: Mapping[str, float], world: int, accumulation: int) -> Tensor:
        """The weighted sum as DeepSpeed must see it."""
        values = torch.stack(list(self.values.values()))
        factors = [weight_of(name, weights) * (1 if name in self.replicated else world) for name in self.values]
        return (values * values.new_tensor(factors)).sum() * accumulation

    def family(self, family: str, weights: Mapping[str, float], world: int) -> Tensor:
        """Weighted sum of the terms of one family, this rank's share."""
        chosen = [
            weight_of(name, weights) * (value / world if name in self.replicated else value)
            for name, value in self.values.items()
            if name.partition("/")[0] == family
        ]
        return torch.stack(chosen).sum() if chosen else next(iter(self.values.values())).new_zeros(())

    def shares(self, world: int) -> Tensor:
        """[terms] float64 on the host: what to sum over micro-steps and ranks for the values of the global batch."""
        values = torch.stack([value.detach() for value in self.values.values()]).double().cpu()
        replicated = torch.tensor([name in self.replicated for name in self.values])
        return torch.where(replicated, values / world, values)


def loss_terms(
    output: IVROutput,
    batch: Batch,
    counts: StepCounts,
    layout: StepLayout,
    config: Config,
    micro: int,
    world: int,
    all_reduce: Callable[[Tensor], Tensor],
) -> LossTerms:
    """Every term of one micro-step on one rank.

    Args:
        output: The model's output for `batch`.
        batch: This rank's samples of the micro-step; none is allowed.
        counts: Counts over the global batch of the step.
        layout: Groups and micro-steps.
        config: Forms of the terms, in the sections `loss` and `svr`.
        micro: Number of the micro-step, 0..A-1.
        world: Ranks R.
        all_reduce: Differentiable sum over ranks; called equally often on every rank.
    """
    values = {f"task/{task}": _task(task, output, batch, counts, config.loss) for task in output.predictions}
    values[CONSISTENCY] = _consistency(output, batch, counts, layout, config.loss, micro, all_reduce)
    values["adversary"] = _adversary(output, batch, counts, layout, config.loss, world)
    values["reconstruction"] = _reconstruction(output, counts)
    if config.svr.over == "batch":
        regularizer = _svr_of_groups(output, batch, counts, layout, config, micro, all_reduce)
        return LossTerms(values | regularizer, frozenset({CONSISTENCY, *regularizer}))
    return LossTerms(values | _svr(output, batch, counts, config))


def _task(task: str, output: IVROutput, batch: Batch, counts: StepCounts, loss: LossConfig) -> Tensor:
    """Mean over the labelled samples of the global batch."""
    predicted, truth, mask = at_least_float32(output.predictions[task]), batch.labels[task], batch.label_mask[task]
    if truth.dtype == torch.long:
        errors = F.cross_entropy(predicted, truth, reduction="none")
    elif loss.regression == "mse":
        errors = (predicted - truth).square()
    elif loss.regression == "mae":
        errors = (predicted - truth).abs()
    else:
        errors = F.huber_loss(predicted, truth.to(predicted.dtype), reduction="none")
    return over((errors * mask).sum(), counts.labels[task])


def _consistency(
    output: IVROutput,
    batch: Batch,
    counts: StepCounts,
    layout: StepLayout,
    loss: LossConfig,
    micro: int,
    all_reduce: Callable[[Tensor], Tensor],
) -> Tensor:
    first = micro * layout.micro_groups
    return consistency(
        torch.stack(list(output.pooled_shared.values())),
        torch.stack([batch.modalities[name].present for name in output.pooled_shared]),
        batch.slots // layout.group - first,
        counts.group_codes[first : first + layout.micro_groups],
        counts.group_codes,
        loss.consistency.moments,
        all_reduce,
    )


def _adversary(
    output: IVROutput, batch: Batch, counts: StepCounts, layout: StepLayout, loss: LossConfig, world: int
) -> Tensor:
    present = {name: batch.modalities[name].present for name in output.logits_shared}
    form = loss.adversary
    both = adversary([output.logits_shared, output.logits_private], present, form.scale, form.margin)
    # The penalty does not depend on the batch: each rank and micro-step brings an equal share, empty ones too.
    penalty = 2 * PENALTY * output.class_penalty / (world * layout.accumulation)
    return over(both, counts.codes) + penalty


def _reconstruction(output: IVROutput, counts: StepCounts) -> Tensor:
    """Mean squared error over valid steps and widths, mean over the modalities that the global batch has."""
    errors = []
    for name, target in output.encoded.items():
        error = (
            F.mse_loss(at_least_float32(output.reconstructed[name]), at_least_float32(target), reduction="sum")
            / target.shape[-1]
        )
        errors.append(over(error, counts.steps[name]))
    return over(torch.stack(errors).sum(), _nonzero(counts.steps.values()))


def _svr(output: IVROutput, batch: Batch, counts: StepCounts, config: Config) -> dict[str, Tensor]:
    """By modality, such that they add up to the mean over the chosen modalities that have neighbouring steps at all."""
    chosen, varying = _regularized(output, counts, config)
    terms = {}
    for name, codes in chosen.items():
        total = variation(codes, batch.modalities[name].pairs, config.svr.kind, config.svr.temperature)
        terms[f"svr/{name}"] = over(over(total, counts.pairs[name]), varying)
    return terms


def _svr_of_groups(
    output: IVROutput,
    batch: Batch,
    counts: StepCounts,
    layout: StepLayout,
    config: Config,
    micro: int,
    all_reduce: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """The same of the mean over each group of slots; every rank gets the same values."""
    chosen, varying = _regularized(output, counts, config)
    first = micro * layout.micro_groups
    samples = {name: counts.group_codes[:, column] for column, name in enumerate(batch.modalities)}
    return {
        f"svr/{name}": over(
            divergence_of_groups(
                [code.view(*batch.modalities[name].mask.shape, code.shape[-1]) for code in codes],
                batch.slots // layout.group - first,
                samples[name][first : first + layout.micro_groups],
                samples[name].sum(),
                config.svr.temperature,
                all_reduce,
            ),
            varying,
        )
        for name, codes in chosen.items()
    }


def _regularized(output: IVROutput, counts: StepCounts, config: Config) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Codes by modality that SVR acts on, and how many of these modalities have neighbouring steps."""
    codes: dict[str, list[Tensor]] = {
        name: [getattr(output, code)[name] for code in config.svr.codes]
        for name in output.shared
        if name in config.svr.modalities
    }
    return codes, _nonzero(counts.pairs[name] for name in codes)


def _nonzero(counts: Iterable[Tensor]) -> Tensor:
    """How many of some counts are not 0, a scalar."""
    return torch.stack(list(counts)).count_nonzero()
