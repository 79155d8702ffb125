"""The loss term protocol: base class of built-in terms and those of `loss.extra`.

A term computes sums over one micro-batch of one rank. The system divides them by counts over the global batch, which
are known before the first forward pass, so that a term's value and gradient depend neither on the number of ranks nor
on gradient accumulation (method 3b).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ivr_dist.config import Config
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.step_counts import StepCounts, StepLayout, over
from ivr_dist.model.spec import IVROutput


@dataclass(frozen=True)
class MicroStep:
    """The micro-step that a term is computed for."""

    number: int
    """Number of the micro-step within its optimizer step, 0..A-1."""
    world: int
    """Ranks R."""
    counts: StepCounts
    """Counts over the global batch of the step, equal on all ranks."""
    layout: StepLayout
    """Groups and micro-steps."""
    config: Config
    """Settings of the built-in terms, in the sections `loss` and `svr`."""
    all_reduce: Callable[[Tensor], Tensor]
    """Differentiable sum over ranks; must be called equally often on every rank."""

    def groups(self, batch: Batch) -> Tensor:
        """[B] each sample's group within the micro-step, 0..micro_groups-1; in a pool its cell, see `group_codes`."""
        group = batch.slots // self.layout.group - self._first_group
        return group * self.layout.parts + batch.corpus if self.layout.corpora else group

    def group_codes(self) -> Tensor:
        """[micro_groups, modalities] `counts.group_codes` of the groups of this micro-step.

        In a pool [micro_groups * C, modalities]: statistics are taken within a corpus, since across corpora they would
        compare the corpora instead of the modalities.
        """
        cells = self.layout.parts
        first = self._first_group * cells
        return self.counts.group_codes[first : first + self.layout.micro_groups * cells]

    def corpora(self, batch: Batch, modality: str) -> Tensor:
        """[N] number of the corpus of each valid step of a modality."""
        return batch.corpus.index_select(0, batch.modalities[modality].sample)

    @property
    def _first_group(self) -> int:
        return self.number * self.layout.micro_groups


@dataclass(frozen=True)
class Share:
    """One micro-step's share of one value: `total / count + constant`."""

    total: Tensor
    """Scalar, the sum over this rank's micro-batch (of a replicated term over all ranks'), in float32 at least."""
    count: Tensor
    """Scalar, the divisor of the sum, over the global batch; 0 divides as 1."""
    constant: Tensor | None = None
    """Scalar that depends on no sample: the part of this rank and micro-step."""

    def value(self) -> Tensor:
        """The share as a scalar; over micro-steps and ranks they add up to the value of the global batch."""
        divided = over(self.total, self.count)
        return divided if self.constant is None else divided + self.constant


class Term(ABC):
    """Base class of loss terms: derive from it and implement `compute`.

    A term has no parameters and is stateless. It must accept an empty batch, whose sum is 0: a rank may have no samples
    of a micro-step.
    """

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    """Fields of `IVROutput` that it reads; a model without one is refused if the term has a weight."""
    replicated: ClassVar[bool] = False
    """Whether every rank computes the same value from sums over ranks (`step.all_reduce`) instead of its own share."""

    def count(self, batch: Batch) -> float:
        """Return a micro-batch's contribution to the divisor of the term's sum; by default its number of samples.

        It is called on the host, before the forward pass, for every micro-batch of a step.
        """
        return float(len(batch))

    @abstractmethod
    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor | Share | Mapping[str, Share]:
        """Compute the term of one micro-batch, not divided by anything that depends on other micro-batches.

        Args:
            output: The model's output for `batch`.
            batch: This rank's samples of the micro-step; there may be none.
            step: The micro-step.

        Returns:
            The sum over the batch, a scalar with a gradient that is divided by `count` over the global batch; or a sum
            with another divisor; or several of them by name, each a curve `loss/TERM/NAME`.
        """


class BuiltInTerm(Term):
    """A built-in term: has a section in the config, and divides by the counts of `StepCounts`."""

    name: ClassVar[str]
    """Its name, that of its curve, or of all its curves."""
    section: ClassVar[str]
    """Section of the config, whose `weight` is its weight."""
