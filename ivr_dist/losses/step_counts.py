"""Counts over a step's global batch: the normalizers of the loss terms.

They are summed over the batches of all ranks before the first forward pass (method 3b.2), so that a term divided by
them is independent of the split of the batch over ranks and micro-steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ivr_dist.data.batches.batch import Batch
from ivr_dist.planning.pool_layout import CorpusLayout


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
    corpora: tuple[CorpusLayout, ...] = ()
    """The corpora of a pool, by their numbers in batches; empty where there is one corpus."""

    @property
    def groups(self) -> int:
        """Groups of the global batch."""
        return self.global_batch // self.group

    @property
    def micro_groups(self) -> int:
        """Groups of one micro-step."""
        return self.groups // self.accumulation

    @property
    def parts(self) -> int:
        """Corpora C of a pool, else 1: counts are by corpus, and a group has a cell for each."""
        return max(len(self.corpora), 1)

    def labels(self, heads: Collection[str]) -> list[Label]:
        """The labels that are learned: each head, or in a pool each task of each trained corpus."""
        if not self.corpora:
            return [Label(head, 0, head, head) for head in heads]
        return [
            Label(f"{corpus.name}/{task}", number, task, head)
            for number, corpus in enumerate(self.corpora)
            if not corpus.held_out
            for task, head in corpus.heads.items()
        ]


class Label(NamedTuple):
    """A label that is learned."""

    name: str
    """Name in curves: TASK, or in a pool CORPUS/TASK."""
    corpus: int
    """Number of its corpus."""
    task: str
    head: str
    """The head that predicts it."""


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
    """Valid steps by modality; in a pool [C] by corpus."""
    pairs: dict[str, Tensor]
    """Neighboring valid steps by modality; in a pool [C] by corpus."""
    labels: dict[str, Tensor]
    """Labeled samples, or the sum of their weights, by name of the label."""
    group_codes: Tensor
    """[groups, modalities] float64, samples with at least one valid step; in a pool [groups * C, modalities] by cell: a
    corpus in a group, group by group."""
    shares: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))
    """[C] share of each corpus in the samples of the step."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Counts of the terms of `loss.extra`, by name."""
    real_steps: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    """In a pool [C] time steps of the samples of each corpus, of the longest modality."""
    padded_steps: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    """In a pool [C] the same once each micro-batch of a rank is padded to its longest sample."""
    skipped: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    """In a pool [C] samples of each corpus that could not be read."""

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
        m, c, labels = len(modalities), layout.parts, layout.labels(tasks)
        pooled = len(layout.corpora)
        sizes = [1, c, m * c, m * c, len(labels), layout.groups * c * m, len(extra), pooled, pooled, pooled]
        head, samples, steps, pairs, counted, codes, further, real, padded, skipped = torch.split(vector, sizes)

        def by_modality(counts: Tensor) -> dict[str, Tensor]:
            rows = counts.view(m, c) if layout.corpora else counts
            return dict(zip(modalities, rows.unbind(), strict=True))

        return cls(
            samples=float(samples.sum()),
            nonfinite=float(head[0]),
            steps=by_modality(steps),
            pairs=by_modality(pairs),
            labels=dict(zip([label.name for label in labels], counted.unbind(), strict=True)),
            group_codes=codes.view(layout.groups * c, m),
            shares=samples / samples.sum().clamp(min=1),
            extra=dict(zip(extra, further.unbind(), strict=True)),
            real_steps=real,
            padded_steps=padded,
            skipped=skipped,
        )


def over(total: Tensor, count: Tensor) -> Tensor:
    """Divide a sum by a count of the step in the sum's precision; counts of 0 divide as 1."""
    return total / count.clamp(min=1).to(total.dtype)


def nonzero_counts(counts: Iterable[Tensor]) -> Tensor:
    """Count the counts that are not 0; a scalar."""
    return torch.stack(list(counts)).count_nonzero()


def corpus_weights(counts: Mapping[str, Tensor], shares: Tensor) -> dict[str, Tensor]:
    """Weights of the steps of each corpus in a mean by corpus and modality.

    The value of a corpus is the mean over its modalities of the mean over their steps, and the corpora weigh by their
    samples: sum over c of share_c / M_c * sum over m of (1 / n_cm) * sum of x, M_c the modalities with steps of c.

    Args:
        counts: By modality: [C] steps, or pairs of steps, over the global batch.
        shares: [C] share of each corpus in its samples.

    Returns:
        By modality: [C] weight of one step.
    """
    present = torch.stack(list(counts.values())).count_nonzero(dim=0).clamp(min=1)
    return {name: shares / (present * count.clamp(min=1)) for name, count in counts.items()}


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
    skipped: Sequence[int] = (),
) -> Tensor:
    """Compute this rank's counts over all its micro-batches of a step, as one float64 vector on the host.

    Args:
        batches: The micro-batches.
        layout: Groups and micro-steps.
        modalities: Their names.
        tasks: Names of the heads.
        extra: Terms of `loss.extra` by name, each with its own count.
        skipped: In a pool: number of the corpus of each sample that could not be read.
    """
    # One vector, summed over the ranks in one all-reduce before the forward pass: decision 008.
    parts, learned = layout.parts, layout.labels(tasks)
    codes = torch.zeros(layout.groups * parts, len(modalities), dtype=torch.float64)
    samples = torch.zeros(parts, dtype=torch.float64)
    steps, pairs = (torch.zeros(len(modalities), parts, dtype=torch.float64) for _ in range(2))
    labels, nonfinite = [0.0] * len(learned), 0.0
    for batch in batches:
        corpus = batch.corpus if layout.corpora else torch.zeros(len(batch), dtype=torch.long)
        samples += torch.bincount(corpus, minlength=parts)
        cell = batch.slots // layout.group * parts + corpus
        for row, name in enumerate(modalities):
            part = batch.modalities[name]
            if layout.corpora:
                own = corpus.index_select(0, part.sample)
                steps[row] += torch.bincount(own, minlength=parts)
                pairs[row] += torch.bincount(own.index_select(0, part.pairs), minlength=parts)
            else:
                steps[row] += len(part.flat)
                pairs[row] += len(part.pairs)
            codes[:, row].index_add_(0, cell, part.present.double())
            for features in (part.features, *(each.features for each in part.sets.values())):
                # A sum is not finite if a summand is not, and is fifty times as fast as checking each.
                if not torch.isfinite(features.sum()):
                    nonfinite += float((~torch.isfinite(features)).sum())
        for number, label in enumerate(learned):
            mask = batch.label_mask[label.head]
            if layout.corpora:
                mask = mask & (corpus == label.corpus)
            labels[number] += float((mask * batch.label_weight.get(label.head, 1.0)).sum())
    further = [sum(term.count(batch) for batch in batches) for term in (extra or {}).values()]
    pooled = len(layout.corpora)
    padding = sum((_padding(batch, pooled) for batch in batches), torch.zeros(2, pooled, dtype=torch.float64))
    lost = torch.bincount(torch.tensor(skipped, dtype=torch.long), minlength=pooled).double()
    return torch.cat(
        [
            torch.tensor([nonfinite], dtype=torch.float64),
            samples,
            steps.flatten(),
            pairs.flatten(),
            torch.tensor([*labels], dtype=torch.float64),
            codes.flatten(),
            torch.tensor(further, dtype=torch.float64),
            padding.flatten(),
            lost,
        ]
    )


def _padding(batch: Batch, corpora: int) -> Tensor:
    """Count the time steps of the samples of each corpus, as they are and padded: [2, C]; [2, 0] without a pool."""
    lengths = torch.zeros(len(batch), dtype=torch.long)
    if not corpora or not len(batch):
        return torch.zeros(2, corpora, dtype=torch.float64)
    for part in batch.modalities.values():
        lengths = torch.maximum(lengths, torch.bincount(part.sample, minlength=len(batch)))
    padded = torch.where(lengths > 0, lengths.max(), 0)
    return torch.stack(
        [torch.bincount(batch.corpus, steps.double(), minlength=corpora) for steps in (lengths, padded)]
    ).double()
