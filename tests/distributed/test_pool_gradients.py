"""Gradients of a pool: independent of how its corpora fall on ranks and micro-steps, and equal at every ZeRO stage.

Corpora have other feature sets, some of one width: gradients of different input layers would be summed without an
error if a rank ran only the layers of the corpora that it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ivr_dist.config import Config, SvrConfig
from ivr_dist.config.loading import load_config
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.terms import loss_terms, weight_of
from ivr_dist.planning.plan import make_plan
from ivr_dist.runtime import collectives
from tests.batches import WEIGHTS, assert_close_gradients, model_config, no_reduce
from tests.distributed.test_split_invariance import averaged_gradients, summed
from tests.pooled_batches import CORPORA, LAYOUT, pooled_batch, pooled_model
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

SLOTS, GROUP = 24, 6
STEPS = 3
NAMES = (list(LAYOUT.sets), list(LAYOUT.heads))


@dataclass(frozen=True)
class Case:
    """The corpora of the slots of a global batch."""

    name: str
    corpora: Sequence[int | None]
    """[24] number of the corpus of each slot; None: the slot is empty."""
    config: Config = field(default_factory=Config)


MIXED = [0, 1, 2, 3, 0, 0, 1, 2, 1, 0, 3, 2] * 2


def cases() -> Iterator[Case]:
    yield Case("all corpora everywhere", MIXED)
    yield Case("two ranks have no corpus in common, with audio of one width", [0] * 12 + [1] * 12)
    yield Case("a rank without the corpora of one input layer", [2] * 6 + [3] * 6 + [0, 1] * 6)
    yield Case("one corpus alone, without two modalities", [3] * SLOTS)
    yield Case("a short step", [0, 1, None, 2, 3, 1, 2, *[None] * 17])
    yield Case("no samples", [None] * SLOTS)
    js = Config(svr=SvrConfig(kind="js", modalities=["audio", "vision"]))
    yield Case("divergence as variation", MIXED, js)


def rank_batch(case: Case, accumulation: int, micro: int, rank: int, world: int, shift: int = 0) -> Batch:
    """The samples of one rank's slot range of one micro-step; with another shift, of another step."""
    size = SLOTS // accumulation
    slots = range(micro * size + size * rank // world, micro * size + size * (rank + 1) // world)
    corpora = [case.corpora[(slot + shift) % SLOTS] for slot in slots]
    held = [(number, slot) for number, slot in zip(corpora, slots, strict=True) if number is not None]
    return pooled_batch([number for number, _ in held], [slot for _, slot in held])


def layout(accumulation: int) -> StepLayout:
    return StepLayout(SLOTS, accumulation, GROUP, CORPORA)


def weights(case: Case) -> dict[str, float]:
    """The weights of section 4 of the method: a task weighs by the samples that its corpus has in the step."""
    held = [number for number in case.corpora if number is not None]
    shares = {f"task/{c.name}": c.loss_weight * held.count(n) / max(len(held), 1) for n, c in enumerate(CORPORA)}
    tasks = {f"task/{c.name}/{task}": shares[f"task/{c.name}"] for c in CORPORA for task in c.tasks}
    return {**WEIGHTS, **tasks}


def step(
    case: Case, accumulation: int, rank: int, world: int, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """One step's gradients as DeepSpeed puts them together, and its terms' values over the global batch."""
    model = pooled_model(model_config()).to(dtype)
    batches = [rank_batch(case, accumulation, micro, rank, world) for micro in range(accumulation)]
    own = layout(accumulation)
    counts = StepCounts.from_vector(summed(local_counts(batches, own, *NAMES), world), own, *NAMES)
    reduce = no_reduce if world == 1 else collectives.all_reduce_sum
    values: dict[str, float] = {}
    for micro, batch in enumerate(batches):
        terms = loss_terms(model(batch), batch, counts, own, case.config, micro, world, reduce)
        terms.total(weights(case), world, accumulation).backward()
        for name, share in zip(terms.values, summed(terms.shares(world), world).tolist(), strict=True):
            values[name] = values.get(name, 0.0) + share
    return averaged_gradients(model, world, accumulation), values


def compare(rank: int, world: int) -> None:
    """Run by each rank: all cases, against one process that holds the whole batch."""
    for case in cases():
        expected, values = step(case, 1, 0, 1, torch.float64)
        for accumulation in (1, 2):
            for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 5e-5)):
                found, terms = step(case, accumulation, rank, world, dtype)
                place = f"{case.name}: {world} ranks, {accumulation} micro-steps, {dtype}"
                try:
                    assert_close_gradients(found, expected, tolerance)
                except AssertionError as error:
                    raise AssertionError(f"{place}: {error}") from None
                assert terms == pytest.approx(values, rel=tolerance, abs=1e-8), place


@pytest.mark.parametrize("world", [1, 2, pytest.param(4, marks=pytest.mark.long)])
def test_losses_and_gradients_on_ranks_and_micro_steps(world: int) -> None:
    if world == 1:
        compare(0, 1)
    else:
        run_ranks(compare, world)


def settings(stage: int, accumulation: int) -> Config:
    return load_config(
        None,
        [
            "data.train=unused",
            "train.select=last",
            f"train.global_batch={SLOTS}",
            f"loss.consistency.group={GROUP}",
            f"train.accumulation={accumulation}",
            f"zero.stage={stage}",
            "train.schedule=constant",
            "train.warmup=0",
            "train.lr=1e-3",
            "log.svr_every=0",
        ],
    )


VARIANTS = [(0, 1), (1, 1), (2, 1), (3, 1), (2, 2)]
"""ZeRO stage and micro-steps."""


def train(rank: int, world: int, place: str) -> None:
    """Run by each rank: some steps of every stage; writes losses, and this rank's share of weights and moments."""
    from ivr_dist.engine.deepspeed_engine import Engine
    from ivr_dist.training.lr_schedule import svr_weight_at
    from ivr_dist.training.train_step import TrainStep

    case = Case("skewed", [0] * 9 + [1] * 9 + [2, 2, 2, 3, 3, 3])
    for stage, accumulation in VARIANTS:
        config = settings(stage, accumulation)
        plan = make_plan(config, SLOTS * STEPS, world)
        model = pooled_model(model_config())
        engine = Engine(model, plan.deepspeed, weight_decay=0.01, device=torch.device("cpu"))
        steps = TrainStep(config, plan, engine, LAYOUT.heads, CORPORA)
        losses: list[dict[str, float]] = []
        for number in range(STEPS):
            batches = [rank_batch(case, accumulation, m, rank, world, 5 * number) for m in range(accumulation)]
            local = local_counts(batches, steps.layout, *NAMES)
            counts = StepCounts.from_vector(summed(local, world), steps.layout, *NAMES)
            result = steps.run(number, batches, counts)
            assert not result.fault
            if number == 0:
                svr = svr_weight_at(0, plan.total_steps, plan.svr_warmup_steps, plan.svr_decay_steps, 1.0)
                by_hand = {**weights(case), "svr": svr * config.loss.svr.weight}
                total = sum(weight_of(name, by_hand) * value for name, value in result.terms.items())
                assert result.loss == pytest.approx(total, rel=1e-6)
            losses.append({"loss": result.loss, "norm": result.grad_norm, **result.terms})
        fragments = [(each.parameter, each.offset, dict(each.tensors)) for each in engine.fragments()]
        torch.save((losses, fragments), f"{place}/{world}-{stage}-{accumulation}-{rank}.pt")


def joined(place: Path, world: int, stage: int, accumulation: int) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Losses by step, and the whole flattened tensors by parameter and kind."""
    found: dict[str, dict[int, Tensor]] = {}
    for rank in range(world):
        losses, fragments = torch.load(place / f"{world}-{stage}-{accumulation}-{rank}.pt", weights_only=True)
        for parameter, offset, tensors in fragments:
            for kind, tensor in tensors.items():
                found.setdefault(f"{parameter} {kind}", {})[offset] = tensor.flatten()
    return losses, {name: torch.cat([parts[at] for at in sorted(parts)]) for name, parts in found.items()}


def assert_equal_runs(place: Path, world: int) -> None:
    losses, state = joined(place, 1, *VARIANTS[0])
    for variant in VARIANTS:
        other_losses, other = joined(place, world, *variant)
        shown = f"{world} ranks, stage {variant[0]}, {variant[1]} micro-steps"
        for number, (expected, found) in enumerate(zip(losses, other_losses, strict=True)):
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-7), f"{shown}, step {number}"
        assert other.keys() == state.keys()
        for name, tensor in state.items():
            # A first moment is about a tenth of a gradient.
            tolerance = 1e-6 if name.endswith(" weight") else 1e-7
            assert torch.allclose(other[name], tensor, rtol=0, atol=tolerance), f"{shown}, {name}"


@pytest.mark.parametrize("worlds", [(1, 2), pytest.param((1, 4), marks=pytest.mark.long)])
def test_weights_and_moments_at_every_stage(worlds: tuple[int, ...], tmp_path: Path) -> None:
    """Moments are sums of gradients: two that were exchanged, or summed, between input layers show at once."""
    for world in worlds:
        run_ranks(train, world, str(tmp_path))
    for world in worlds:
        assert_equal_runs(tmp_path, world)
