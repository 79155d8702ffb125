"""Contract of loss terms (`loss.extra`)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config, LossConfig, ModelConfig
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.term import MicroStep, Share, Term
from ivr_dist.model.base import FusionModel
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import IVROutput
from ivr_dist.testing.batches import TASKS, example_batch, example_spec

_NAME = "mine"
_SAMPLES, _GROUP = 8, 4


class TermContract(ABC):
    """Tests of a loss term: derive a class `TestMine` from it and implement `make`."""

    @abstractmethod
    def make(self) -> Term:
        """Build the term as a config would."""

    def config(self) -> Config:
        """The config that the term reads as `step.config`."""
        return Config()

    def model(self) -> FusionModel:
        """The model whose output it reads, without dropout; preset `ivr` returns every part."""
        return build_model(ModelConfig(hidden=8, dropout=0.0), example_spec(), LossConfig())

    def batch(self, samples: Sequence[int]) -> Batch:
        """A batch of samples by number, 0 to 7."""
        return example_batch(samples)

    def test_it_states_what_it_needs(self) -> None:
        """It derives from `Term` and needs parts that outputs have."""
        term = self.make()
        assert isinstance(term, Term)
        assert term.needs and set(term.needs) <= set(IVROutput.parts())

    def test_counts_add_up(self) -> None:
        """The count of a batch is that of its parts together; nothing counts nothing."""
        term = self.make()
        whole, first, second = (term.count(self.batch(samples)) for samples in (range(8), range(3), range(3, 8)))
        assert term.count(self.batch(())) == 0
        assert math.isfinite(whole) and whole >= 0 and math.isclose(whole, first + second)

    def test_it_is_finite_and_has_a_gradient(self) -> None:
        """Each value is a scalar; some parameter has a gradient."""
        model = self._seeded()
        values = self._values(model, [range(_SAMPLES)])
        assert values and all(value.dim() == 0 and bool(torch.isfinite(value)) for value in values.values())
        torch.stack(list(values.values())).sum().backward()  # type: ignore[no-untyped-call]
        assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())

    def test_no_samples_are_no_error(self) -> None:
        """A rank may hold none of a micro-step's samples; its share is finite, and so are the gradients."""
        model = self._seeded()
        values = self._values(model, [()])
        assert all(bool(torch.isfinite(value)) for value in values.values())
        total = torch.stack(list(values.values())).sum()
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())

    def test_micro_steps_add_up_to_the_step(self) -> None:
        """The value of the global batch is the same for any gradient accumulation."""
        model = self._seeded()
        whole = self._values(model, [range(_SAMPLES)])
        parts = self._values(model, [range(_GROUP), range(_GROUP, _SAMPLES)])
        assert whole.keys() == parts.keys()
        for name, value in whole.items():
            torch.testing.assert_close(value, parts[name], rtol=1e-4, atol=1e-5)

    def test_ranks_add_up_to_the_batch(self) -> None:
        """A term that is not replicated is the sum of the shares of ranks that hold any part of a micro-step."""
        term, model = self.make(), self._seeded()
        if term.replicated:
            return
        whole = self._values(model, [range(_SAMPLES)])
        shares = self._values(model, [range(3), range(3, _SAMPLES), ()], world=3)
        for name, value in whole.items():
            torch.testing.assert_close(value, shares[name], rtol=1e-4, atol=1e-5)

    def test_it_is_stateless(self) -> None:
        """The same batch gives the same value again: a run that continues has new instances."""
        model, term = self._seeded(), self.make()
        first, second = (self._values(model, [range(_SAMPLES)], term=term) for _ in range(2))
        self._values(model, [range(3)], term=term)
        third = self._values(model, [range(_SAMPLES)], term=term)
        assert all(torch.equal(first[name], second[name]) and torch.equal(first[name], third[name]) for name in first)

    def test_it_reads_what_it_needs_alone(self) -> None:
        """A model that returns the parts of `needs` and nothing else is admitted."""
        model = self._seeded()
        whole = self._values(model, [range(_SAMPLES)])
        fewer = self._values(model, [range(_SAMPLES)], only=self.make().needs)
        assert all(torch.equal(value, fewer[name]) for name, value in whole.items())

    def _seeded(self) -> FusionModel:
        torch.manual_seed(0)
        return self.model().eval()

    def _values(
        self,
        model: FusionModel,
        parts: Sequence[Sequence[int]],
        *,
        world: int = 1,
        term: Term | None = None,
        only: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """The term's values over a step whose batch is given in parts: micro-steps, or the ranks' shares of one."""
        term = term or self.make()
        batches = [self.batch(samples) for samples in parts]
        layout = StepLayout(_SAMPLES, 1 if world > 1 else len(parts), _GROUP if world == 1 else _SAMPLES)
        names = (list(MODALITIES), list(TASKS))
        vector = local_counts(batches, layout, *names, {_NAME: term})
        counts = StepCounts.from_vector(vector, layout, *names, [_NAME])
        values: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            output = model(batch)
            if only is not None:
                dropped = {part: getattr(IVROutput({}), part) for part in IVROutput.parts() if part not in only}
                output = replace(output, **dropped)
            step = MicroStep(0 if world > 1 else number, world, counts, layout, self.config(), lambda tensor: tensor)
            for name, share in _shares(term.compute(output, batch, step), counts).items():
                values[name] = values[name] + share if name in values else share
        return values


def _shares(computed: Tensor | Share | Mapping[str, Share], counts: StepCounts) -> dict[str, Tensor]:
    if isinstance(computed, Tensor):
        return {"": Share(computed, counts.extra[_NAME]).value()}
    if isinstance(computed, Share):
        return {"": computed.value()}
    return {name: share.value() for name, share in computed.items()}
