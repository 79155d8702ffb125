"""Total loss of one micro-step: all terms and their weighted sum, the input of backward.

R ranks, A micro-steps. DeepSpeed averages gradients over ranks and divides by A, so a term that is a local sum over a
global count is multiplied by R * A, and a replicated one by A only (method 3b.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ivr_dist.config import Config
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.registry import ConfiguredTerm, built_in_terms
from ivr_dist.losses.step_counts import StepCounts, StepLayout
from ivr_dist.losses.term import MicroStep, Share, Term
from ivr_dist.model.spec import IVROutput

CONSISTENCY = "consistency"


def weight_of(name: str, weights: Mapping[str, float]) -> float:
    """Return the weight of a term: its own, or that of its family (`svr/audio` belongs to `svr`)."""
    return weights[name] if name in weights else weights[name.partition("/")[0]]


@dataclass(frozen=True)
class LossTerms:
    """One micro-step's share of each term: over micro-steps and ranks they add up to the term of the global batch."""

    values: dict[str, Tensor]
    """Scalars by name: `task/NAME`, `consistency`, `adversary`, `reconstruction`, `svr/MODALITY`, `loss.extra`'s."""
    replicated: frozenset[str] = frozenset({CONSISTENCY})
    """Terms that every rank computes alike from moments summed over the ranks; the others are this rank's share."""
    recorded: frozenset[str] = frozenset()
    """Terms from outside that are curves only: of weight 0, and left out of the total even where they are nan."""

    def total(self, weights: Mapping[str, float], world: int, accumulation: int) -> Tensor:
        """The weighted sum as DeepSpeed must see it."""
        names = [name for name in self.values if name not in self.recorded]
        values = torch.stack([self.values[name] for name in names])
        factors = [weight_of(name, weights) * (1 if name in self.replicated else world) for name in names]
        return (values * values.new_tensor(factors)).sum() * accumulation

    def family(self, family: str, weights: Mapping[str, float], world: int) -> Tensor:
        """Sum the weighted terms of one family, this rank's share."""
        chosen = [
            weight_of(name, weights) * (value / world if name in self.replicated else value)
            for name, value in self.values.items()
            if name.partition("/")[0] == family
        ]
        return torch.stack(chosen).sum() if chosen else next(iter(self.values.values())).new_zeros(())

    def shares(self, world: int) -> Tensor:
        """Return this rank's shares, [terms] float64 on the host; they sum to the values of the global batch."""
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
    extra: Sequence[ConfiguredTerm] = (),
) -> LossTerms:
    """Compute every term of one micro-step on one rank, without built-in terms whose outputs the model lacks.

    Args:
        output: The model's output for `batch`.
        batch: This rank's samples of the micro-step; none is allowed.
        counts: Counts over the global batch of the step.
        layout: Groups and micro-steps.
        config: Settings of the terms, in the sections `loss` and `svr`.
        micro: Number of the micro-step, 0..A-1.
        world: Ranks R.
        all_reduce: Differentiable sum over ranks; called equally often on every rank.
        extra: The terms of `loss.extra`.
    """
    step = MicroStep(micro, world, counts, layout, config, all_reduce)
    values: dict[str, Tensor] = {}
    replicated: list[str] = []
    for term in built_in_terms(config):
        if all(output.has(part) for part in term.needs):
            _add(term.name, term, term.compute(output, batch, step), step, values, replicated)
    for configured in extra:
        _add(configured.name, configured.term, configured.compute(output, batch, step), step, values, replicated)
    unweighted = [configured.name for configured in extra if configured.weight == 0]
    recorded = [name for name in values if name.partition("/")[0] in unweighted]
    return LossTerms(values, frozenset(replicated), frozenset(recorded))


def _add(
    name: str,
    term: Term,
    computed: Tensor | Share | Mapping[str, Share],
    step: MicroStep,
    values: dict[str, Tensor],
    replicated: list[str],
) -> None:
    """Add the result of a term to the values."""
    if isinstance(computed, Mapping):
        shares = {f"{name}/{part}": share for part, share in computed.items()}
    else:
        shares = {name: computed if isinstance(computed, Share) else Share(computed, step.counts.extra[name])}
    for full_name, share in shares.items():
        values[full_name] = share.value()
        if term.replicated:
            replicated.append(full_name)
