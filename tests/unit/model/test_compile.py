"""torch.compile: both presets compile without graph breaks, are rarely recompiled, and compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from ivr_dist.config import Config
from ivr_dist.data.batches.batch import Batch, in_blocks
from ivr_dist.losses.step_counts import StepLayout
from ivr_dist.losses.terms import loss_terms
from ivr_dist.model.adapters import with_two_steps
from ivr_dist.model.spec import IVROutput
from tests.batches import (
    WEIGHTS,
    assert_close_gradients,
    batch_of,
    count,
    gradients,
    make_model,
    make_samples,
    mixed_samples,
    model_config,
    no_reduce,
    release_config,
    total_of,
)
from tests.pooled_batches import pooled_batch, pooled_model

CONFIGS = {"ivr": Config(model=model_config()), "release": release_config()}


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def batch(preset: str, size: int) -> Batch:
    made = batch_of(mixed_samples(size, seed=size), common=6 if preset == "release" else None)
    return replace(made, modalities=in_blocks(made.modalities))


def compiled_loss(preset: str, backend: str) -> Callable[[IVROutput, Batch], Tensor]:
    """All terms of one group, compiled; a break of the graph raises."""
    terms = torch.compile(loss_terms, backend=backend, fullgraph=True)

    def total(output: IVROutput, batch: Batch) -> Tensor:
        layout = StepLayout(len(batch), 1, len(batch))
        found = terms(output, batch, count([batch], layout), layout, CONFIGS[preset], 0, 1, no_reduce)
        return found.total(WEIGHTS, world=1, accumulation=1)

    return total


def models(preset: str, backend: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same model twice, the second one compiled; a break of its graph raises."""
    config = CONFIGS[preset]
    plain, compiled = (make_model(config.model, loss=config.loss) for _ in range(2))
    compiled.compile(backend=backend, fullgraph=True)
    return plain, compiled


@pytest.mark.parametrize("preset", [pytest.param("ivr", marks=pytest.mark.long), "release"])
def test_no_graph_breaks_and_other_sizes_compile_no_more(preset: str) -> None:
    """Once for the first size, and once or twice until sizes are taken as unknown; the model and the losses each."""
    plain, compiled = models(preset, "eager")
    loss = compiled_loss(preset, "eager")
    for size in (6, 7, 9, 12, 5):
        expected = gradients(plain, batch(preset, size), lambda output, own: total_of(output, own, CONFIGS[preset]))
        assert_close_gradients(gradients(compiled, batch(preset, size), loss), expected, 1e-5)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 2 * 3


@pytest.mark.parametrize("kind", [pytest.param("preset", marks=pytest.mark.long), "class"])
def test_feature_sets_without_steps_compile_no_more(kind: str) -> None:
    """Graphs are for sizes of 0, of 1 and above, so that each combination of corpora would have one of its own."""
    config = model_config(class_="tests.extension_parts:Averages" if kind == "class" else "")
    plain, compiled = (pooled_model(config) for _ in range(2))
    compiled.compile(backend="eager")
    mixes = (
        [0, 1, 2, 3] * 3,
        [0, 1, 2] * 3,
        [0] * 6,
        [0, 1] * 3,
        [0, 2] * 4,
        [1, 2] * 4,
        [3, 0, 0, 3, 0],
        [2, 1, 1, 3],
    )
    for corpora in mixes:
        made = pooled_batch(corpora)
        expected, found = plain(made), compiled(with_two_steps(made))
        for name, value in expected.predictions.items():
            torch.testing.assert_close(found.predictions[name], value)
    assert not counters["graph_break"]
    # The first sizes, then sizes that differ; at times one that had not differed before.
    assert counters["stats"]["unique_graphs"] <= 4


@pytest.mark.long
def test_blocks_of_lengths_are_part_of_the_graph() -> None:
    """Batches with as many blocks need no new graph; their number, like the depth of a network, is a constant."""
    _, compiled = models("ivr", "eager")
    for long in (150, 140, 131, 145):
        made = batch_of(make_samples([{"text": n, "audio": n, "vision": n} for n in (2, 3, 2, 3, long)]))
        made = replace(made, modalities=in_blocks(made.modalities))
        assert len(made.modalities["text"].blocks.shapes) == 2
        compiled(made)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 3


@pytest.mark.long
@pytest.mark.parametrize("preset", CONFIGS)
def test_compiled_by_inductor_the_loss_is_the_same(preset: str) -> None:
    """The forward half: a graph with its backward takes the compiler minutes on a small machine."""
    plain, compiled = models(preset, "inductor")
    made = batch(preset, 6)
    # Without vector instructions, whose headers take a third of the time.
    with torch.no_grad(), inductor.patch({"cpp.simdlen": 1}):
        expected = total_of(plain(made), made, CONFIGS[preset])
        found = compiled_loss(preset, "inductor")(compiled(made), made)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
