"""Counts over a step's global batch: the normalizers of the loss terms.

They are summed over the batches of all ranks before the first forward pass (method 3b.2), so that a term divided by
them is independent of the split of the batch over ranks and micro-steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ivr_dist.data.batches.batch import Batch


@dataclass(frozen=True)
class StepLayout:
    """Division of the slots of a global batch into groups and micro-steps."""

    global_batch: int
    """Slots G."""
    accumulation: int
    """Micro-steps A; each holds whole groups."""
    # decision 035
    group: int
    """Consecutive slots whose batch statistics are taken together; A * group divides G."""

    @property
    def groups(self) -> int:
        """Groups of the global batch."""
        return self.global_batch // self.group

    @property
    def micro_groups(self) -> int:
        """Groups of one micro-step."""
        return self.groups // self.accumulation


@dataclass(frozen=True)
class StepCounts:
    """Counts over the global batch of one step, equal on all ranks; whole numbers.

    Divisors are float64 scalars on the host: Python numbers would be constants of a compiled loss, which would be
    recompiled at every step.
    """

    samples: float
    nonfinite: float
    """Input features that are not finite."""
    steps: dict[str, Tensor]
    """Valid steps by modality."""
    pairs: dict[str, Tensor]
    """Neighboring valid steps by modality."""
    labels: dict[str, Tensor]
    """Labeled samples by task."""
    group_codes: Tensor
    """[groups, modalities] float64, samples with at least one valid step."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Counts of the terms of `loss.extra`, by name."""

    @property
    def codes(self) -> Tensor:
        """Pairs of a sample and a modality it has."""
        return self.group_codes.sum()

    @classmethod
    def from_vector(
        cls,
        vector: Tensor,
        layout: StepLayout,
        modalities: Collection[str],
        tasks: Collection[str],
        extra: Collection[str] = (),
    ) -> StepCounts:
        """Unpack what `local_counts` packed, after the sum over ranks."""
        m, t = len(modalities), len(tasks)
        sizes = [2, m, m, t, layout.groups * m, len(extra)]
        head, steps, pairs, labels, codes, further = torch.split(vector, sizes)
        return cls(
            samples=float(head[0]),
            nonfinite=float(head[1]),
            steps=dict(zip(modalities, steps.unbind(), strict=True)),
            pairs=dict(zip(modalities, pairs.unbind(), strict=True)),
            labels=dict(zip(tasks, labels.unbind(), strict=True)),
            group_codes=codes.view(layout.groups, m),
            extra=dict(zip(extra, further.unbind(), strict=True)),
        )


def over(total: Tensor, count: Tensor) -> Tensor:
    """Divide a sum by a count of the step in the sum's precision; counts of 0 divide as 1."""
    return total / count.clamp(min=1).to(total.dtype)


def nonzero_counts(counts: Iterable[Tensor]) -> Tensor:
    """Count the counts that are not 0; a scalar."""
    return torch.stack(list(counts)).count_nonzero()


class Counts(Protocol):
    """A term with its own count; see `Term.count`."""

    def count(self, batch: Batch) -> float:
        """Return the contribution of a micro-batch."""


def local_counts(
    batches: Sequence[Batch],
    layout: StepLayout,
    modalities: Collection[str],
    tasks: Collection[str],
    extra: Mapping[str, Counts] | None = None,
) -> Tensor:
    """Compute this rank's counts over all its micro-batches of a step, as one float64 vector on the host.

    Args:
        batches: The micro-batches.
        layout: Groups and micro-steps.
        modalities: Their names.
        tasks: Their names.
        extra: Terms of `loss.extra` by name, each with its own count.
    """
    # One vector, summed over the ranks in one all-reduce before the forward pass: decision 008.
    codes = torch.zeros(layout.groups, len(modalities), dtype=torch.float64)
    samples = nonfinite = 0.0
    steps, pairs, labels = dict.fromkeys(modalities, 0), dict.fromkeys(modalities, 0), dict.fromkeys(tasks, 0.0)
    for batch in batches:
        samples += len(batch)
        group = batch.slots // layout.group
        for column, name in enumerate(modalities):
            part = batch.modalities[name]
            steps[name] += len(part.flat)
            pairs[name] += len(part.pairs)
            codes[:, column].index_add_(0, group, part.present.double())
            # A sum is not finite if a summand is not, and is fifty times as fast as checking each.
            if not torch.isfinite(part.features.sum()):
                nonfinite += float((~torch.isfinite(part.features)).sum())
        for task in tasks:
            labels[task] += float(batch.label_mask[task].sum())
    numbers = [samples, nonfinite, *steps.values(), *pairs.values(), *labels.values()]
    further = [sum(term.count(batch) for batch in batches) for term in (extra or {}).values()]
    parts = [torch.tensor(numbers, dtype=torch.float64), codes.flatten(), torch.tensor(further, dtype=torch.float64)]
    return torch.cat(parts)
