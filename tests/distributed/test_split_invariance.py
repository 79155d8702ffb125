"""The gradient of a global batch is independent of its split over ranks and micro-steps.

Method 3b.8: every parameter's gradient, put together as DeepSpeed does (micro-steps summed, averaged over the ranks,
divided by their number), equals that of one process in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import (
    Config,
    EncoderConfig,
    FusionConfig,
    LossConfig,
    ModelConfig,
    ReconstructionConfig,
    SvrConfig,
)
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.terms import loss_terms
from ivr_dist.runtime import collectives
from tests.batches import (
    TASKS,
    WEIGHTS,
    Sample,
    assert_close_gradients,
    batch_of,
    make_model,
    make_samples,
    mixed_samples,
    model_config,
    no_reduce,
    release_config,
)
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

SLOTS, GROUP = 24, 6


@dataclass(frozen=True)
class Case:
    """A global batch of 24 slots, and a model."""

    name: str
    samples: Sequence[Sample]
    slots: Sequence[int]
    model: ModelConfig
    config: Config
    modalities: Sequence[str] = MODALITIES
    common: int | None = None


def cases() -> Iterator[Case]:
    plain = model_config(fusion=FusionConfig(heads=2))
    full = range(SLOTS)
    yield Case("full batch, missing modalities and labels", mixed_samples(SLOTS), full, plain, Config())
    yield Case("slots missing in the middle", mixed_samples(17), [*range(3, 9), *range(13, 24)], plain, Config())
    yield Case("short step: ranks and micro-steps without samples", mixed_samples(5), range(5), plain, Config())
    yield Case("two samples", mixed_samples(2), [1, 2], plain, Config())
    no_vision = make_samples([{"text": 1 + row % 4, "audio": 1} for row in range(SLOTS)])
    yield Case("one step of audio, vision missing everywhere", no_vision, full, plain, Config())
    lonely = make_samples([{"text": 2, "vision": 3} | ({"audio": 2} if row == 7 else {}) for row in range(SLOTS)])
    yield Case("audio in one sample only", lonely, full, plain, Config())
    yield Case("no text in the data set", mixed_samples(SLOTS), full, plain, Config(), ("audio", "vision"))
    yield Case("text alone", mixed_samples(SLOTS), full, plain, Config(), ("text",))
    other = Config(
        svr=SvrConfig(kind="js", modalities=["audio", "vision"]),
        loss=LossConfig(reconstruction=ReconstructionConfig(per="pooled"), regression="huber"),
    )
    gru = EncoderConfig(kind="gru")
    config = model_config(
        text=gru,
        audio=EncoderConfig(kind="none"),
        fusion=FusionConfig(heads=2, content="both", gate="straight_through", pooling="attention"),
    )
    yield Case("other encoders, fusion and losses", mixed_samples(SLOTS, seed=3), full, config, other)
    release = release_config()
    yield Case("release", mixed_samples(SLOTS), full, release.model, release, common=5)
    yield Case("release, short step", mixed_samples(5), range(5), release.model, release, common=6)


def rank_batch(case: Case, layout: StepLayout, micro: int, rank: int, world: int) -> Batch:
    """The samples of one rank's slot range of one micro-step, as the loader cuts them."""
    size = layout.global_batch // layout.accumulation
    low, high = micro * size + size * rank // world, micro * size + size * (rank + 1) // world
    rows = [row for row, slot in enumerate(case.slots) if low <= slot < high]
    return batch_of(
        [case.samples[r] for r in rows], [case.slots[r] for r in rows], modalities=case.modalities, common=case.common
    )


def step(
    case: Case, accumulation: int, rank: int, world: int, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """One step's gradients as DeepSpeed puts them together, and its terms' values over the global batch."""
    layout = StepLayout(SLOTS, accumulation, GROUP)
    names = (list(case.modalities), list(TASKS))
    # At seed 0 no gate is within rounding of its threshold, where straight-through jumps.
    model = make_model(case.model, case.modalities, loss=case.config.loss).to(dtype)
    batches = [rank_batch(case, layout, micro, rank, world) for micro in range(accumulation)]
    counts = StepCounts.from_vector(summed(local_counts(batches, layout, *names), world), layout, *names)
    reduce = no_reduce if world == 1 else collectives.all_reduce_sum
    values: dict[str, float] = {}
    for micro, batch in enumerate(batches):
        terms = loss_terms(model(batch), batch, counts, layout, case.config, micro, world, reduce)
        terms.total(WEIGHTS, world, accumulation).backward()
        for name, share in zip(terms.values, summed(terms.shares(world), world).tolist(), strict=True):
            values[name] = values.get(name, 0.0) + share
    return averaged_gradients(model, world, accumulation), values


def summed(values: Tensor, world: int) -> Tensor:
    """The sum over the ranks, or the values of the one process that the ranks are compared with."""
    return values if world == 1 else collectives.sum_over_ranks(values)


def averaged_gradients(model: nn.Module, world: int, accumulation: int) -> dict[str, Tensor]:
    """Each parameter's gradient as DeepSpeed leaves it; fails where a rank has none."""
    names, found = [], []
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient of {name}"
        names.append(name)
        found.append(parameter.grad.double())
    flat = torch.cat([part.flatten() for part in found])
    flat = summed(flat, world) / (world * accumulation)
    parts = flat.split([part.numel() for part in found])
    return {name: part.view_as(like) for name, part, like in zip(names, parts, found, strict=True)}


def compare(rank: int, world: int) -> None:
    """Run by each rank: all cases, against one process that holds the whole batch."""
    # In float32 the tolerance is rounding's; in float64 it leaves room for nothing else.
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


def test_one_process_and_micro_steps() -> None:
    compare(0, 1)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.long)])
def test_ranks_and_micro_steps(world: int) -> None:
    run_ranks(compare, world)
