"""Loss terms from outside the package: construction, normalization, weights, and errors of failing terms."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from ivr_dist.config import Config, LossConfig
from ivr_dist.data.batches.batch import Batch
from ivr_dist.errors import ConfigError, IvrError
from ivr_dist.losses.registry import ConfiguredTerm, configured_terms
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.term import MicroStep, Share, Term
from ivr_dist.losses.terms import LossTerms, loss_terms, weight_of
from ivr_dist.model.spec import IVROutput
from tests.batches import MODALITIES, TASKS, batch_of, make_model, mixed_samples, no_reduce


class NeedsNothing(Term):
    needs: ClassVar[tuple[str, ...]] = ("nothing",)

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor:
        return torch.zeros(())


class Abstract(Term):
    pass


class Unlike(Term):
    """Two values with divisors of their own."""

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> dict[str, Share]:
        total = output.predictions["sentiment"].sum()
        return {"a": Share(total, step.counts.codes), "b": Share(total, torch.tensor(2.0))}


class Vector(Term):
    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor:
        return output.predictions["sentiment"]


class Failing(Term):
    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor:
        raise KeyError("sentiments")


class Summing(Term):
    """Sums over the ranks with what the system gives it for that."""

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor:
        return step.all_reduce(output.predictions["sentiment"].sum())


class Returns(Term):
    """Returns what its argument says."""

    def __init__(self, what: str = "") -> None:
        self.what = what

    def count(self, batch: Batch) -> float:
        return {"nan": float("nan"), "negative": -1.0}.get(self.what, 1.0)

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor:
        total = output.predictions["sentiment"].sum()
        values: dict[str, object] = {
            "number": 0.5,
            "nothing": None,
            "no shares": {},
            "tensors": {"a": total},
            "vectors": {"a": Share(total, torch.zeros(2))},
            "exit": total,
        }
        if self.what == "exit":
            raise SystemExit(0)
        return values[self.what]  # type: ignore[return-value]


class Trainable(Term):
    def __init__(self) -> None:
        self.layer = nn.Linear(2, 2)

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor:
        return output.predictions["sentiment"].sum()


class Undefined(Term):
    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor:
        return output.predictions["sentiment"].sum() * float("nan")


class Unnamed(Term):
    needs = "predictions"  # type: ignore[assignment]

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor:
        return torch.zeros(())


class TakesTwo(Term):
    def compute(self, output: IVROutput, batch: Batch) -> Tensor:  # type: ignore[override]
        return torch.zeros(())


class Counting(Term):
    """Divided by the labeled samples."""

    def count(self, batch: Batch) -> float:
        return float(batch.label_mask["sentiment"].sum())

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor:
        return (output.predictions["sentiment"] * batch.label_mask["sentiment"]).sum()


def here(name: str) -> str:
    return f"{__name__}:{name}"


def config(**extra: object) -> Config:
    return Config(loss=LossConfig(extra=extra))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under pytest's import mode this module is not in `sys.modules` by its name."""
    import sys
    from types import ModuleType

    module = ModuleType(__name__)
    vars(module).update(globals())
    monkeypatch.setitem(sys.modules, __name__, module)


def terms_with(settings: Config, count: int = 7) -> tuple[LossTerms, Batch, IVROutput]:
    extra = configured_terms(settings)
    batch = batch_of(mixed_samples(count))
    output = make_model()(batch)
    layout, names = StepLayout(count, 1, count), (list(MODALITIES), list(TASKS))
    by_name = {term.name: term for term in extra}
    counts = StepCounts.from_vector(local_counts([batch], layout, *names, by_name), layout, *names, by_name)
    return loss_terms(output, batch, counts, layout, settings, 0, 1, no_reduce, extra), batch, output


def test_a_sum_is_divided_by_its_own_count() -> None:
    terms, batch, output = terms_with(config(mine=here("Counting")))
    labeled = batch.label_mask["sentiment"]
    assert 0 < int(labeled.sum()) < len(batch)
    torch.testing.assert_close(terms.values["mine"], output.predictions["sentiment"][labeled].mean())
    assert list(terms.values)[-1] == "mine" and "mine" not in terms.replicated


def test_several_values_have_divisors_of_their_own_and_one_weight() -> None:
    terms, _, output = terms_with(config(mine={"class": here("Unlike"), "weight": 0.5}))
    torch.testing.assert_close(terms.values["mine/b"], output.predictions["sentiment"].sum() / 2)
    assert weight_of("mine/a", {"mine": 0.5}) == 0.5


def test_terms_of_the_package_come_first_and_are_the_same() -> None:
    with_extra, _, _ = terms_with(config(mine=here("Counting")))
    without, _, _ = terms_with(Config())
    assert list(with_extra.values) == [*without.values, "mine"]
    assert all(torch.equal(value, with_extra.values[name]) for name, value in without.values.items())


def test_terms_that_a_model_has_no_output_for_are_absent() -> None:
    batch = batch_of(mixed_samples(5))
    output = IVROutput(make_model()(batch).predictions)
    layout, names = StepLayout(5, 1, 5), (list(MODALITIES), list(TASKS))
    counts = StepCounts.from_vector(local_counts([batch], layout, *names), layout, *names)
    values = loss_terms(output, batch, counts, layout, Config(), 0, 1, no_reduce).values
    assert list(values) == ["task/sentiment", "task/type"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (
            "NeedsNothing",
            ": needs names nothing, which is not a part of a model's output (loss.extra.mine); use predictions, ",
        ),
        ("Unnamed", ": needs = 'predictions' is not a tuple of names (loss.extra.mine); write it as needs = (\"pred"),
        ("TakesTwo", ": compute cannot be called with 3 arguments (loss.extra.mine); see docs/extending.md"),
        ("Trainable", " has parameters in layer, which nothing would train (loss.extra.mine); put them in the model"),
        ("Abstract", " is not a loss term: it has no compute (loss.extra.mine)"),
        ("MicroStep", " is not a loss term (loss.extra.mine); derive it from ivr_dist.losses.term.Term"),
    ],
)
def test_invalid_term_classes_are_refused(name: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured_terms(config(mine=here(name)))
    assert str(caught.value).startswith(f"{here(name)}{error}")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Failing", r"Failing failed: KeyError: 'sentiments' \(loss\.extra\.mine\)"),
        ("Vector", r"Vector: compute returned shape \[7\], not a scalar tensor \(loss\.extra\.mine\)"),
    ],
)
def test_a_term_that_fails_is_named(name: str, error: str) -> None:
    with pytest.raises(IvrError, match=error):
        terms_with(config(mine=here(name)))


def test_a_lost_worker_is_no_fault_of_the_term_that_waits_for_it() -> None:
    """Ray restarts the workers after any error but an `IvrError`, which ends the run."""

    def without_group(tensor: Tensor) -> Tensor:
        torch.distributed.all_reduce(tensor)
        return tensor

    (term,) = configured_terms(config(mine=here("Summing")))
    batch = batch_of(mixed_samples(3))
    output = IVROutput(make_model()(batch).predictions)
    layout, names = StepLayout(3, 1, 3), (list(MODALITIES), list(TASKS))
    counts = StepCounts.from_vector(local_counts([batch], layout, *names), layout, *names)
    with pytest.raises(ValueError, match="process group has not been initialized"):
        term.compute(output, batch, MicroStep(0, 1, counts, layout, Config(), without_group))


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("nan", ": count returned nan"),
        ("negative", ": count returned -1"),
        ("number", ": compute returned float, not a scalar tensor"),
        ("nothing", ": compute returned NoneType, not a scalar tensor"),
        ("no shares", ": compute returned no value"),
        ("tensors", ": compute returned shape [] as a, not a Share"),
        ("vectors", ": compute returned shape [2] as a, not a scalar tensor"),
        ("exit", " failed: SystemExit: 0"),
    ],
)
def test_a_value_of_another_form_is_refused(what: str, error: str) -> None:
    with pytest.raises(IvrError) as caught:
        terms_with(config(mine={"class": here("Returns"), "what": what}))
    assert str(caught.value).startswith(f"loss term {here('Returns')}{error} (loss.extra.mine); ")


def test_a_term_of_weight_0_is_left_out_of_the_total_even_where_it_is_nan() -> None:
    weights = {name: 1.0 for name in ("task", "consistency", "adversary", "reconstruction", "svr")}
    without, _, _ = terms_with(Config())
    expected = without.total(weights, 1, 1)
    recorded, _, _ = terms_with(config(mine={"class": here("Undefined"), "weight": 0}))
    assert torch.isnan(recorded.values["mine"])
    assert torch.equal(recorded.total({**weights, "mine": 0.0}, 1, 1), expected)
    weighted, _, _ = terms_with(config(mine=here("Undefined")))
    assert torch.isnan(weighted.total({**weights, "mine": 1.0}, 1, 1))


def test_a_term_has_arguments_and_a_weight() -> None:
    (term,) = configured_terms(
        config(mine={"class": "tests.extension_parts:Contrast", "weight": 0.3, "temperature": 2.0})
    )
    assert isinstance(term, ConfiguredTerm) and term.weight == 0.3
    assert term.term.temperature == 2.0  # type: ignore[attr-defined]
    assert term.count(batch_of(mixed_samples(3))) == 3.0
