"""Checkpoints are portable: written at one ZeRO stage and world size, continued at another."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.reshape import reshape
from ivr_dist.checkpoint.weights import read_weights
from ivr_dist.config import Config
from ivr_dist.config.loading import load_config
from ivr_dist.inspection.audit import audit
from ivr_dist.run.results import loss_curve
from tests.distributed.test_training import config, train
from tests.ranks import run_ranks
from tests.states import small_state

pytestmark = pytest.mark.distributed

STAGES = (0, 1, 2, 3)
CUT, END = 7, 10


def short(corpus: str, run: Path, stage: int, *more: str) -> Config:
    """Ten steps with every loss term; a checkpoint after the seventh."""
    fixed = (f"zero.stage={stage}", f"train.max_steps={END}", "checkpoint.every=100steps", "checkpoint.keep_last=9")
    return config(corpus, run, *fixed, "train.eval_every=100steps", "data.test=", *more)


def write_sources(corpus: str, place: Path, worlds: tuple[int, ...]) -> dict[tuple[int, int], str]:
    """A run at each stage and size, stopped after step 7: its checkpoint, by stage and size."""
    found = {}
    for world in worlds:
        runs = {stage: short(corpus, place / f"source-{stage}-{world}", stage) for stage in STAGES}
        run_ranks(train, world, [(run, CUT) for run in runs.values()])
        for stage, run in runs.items():
            (name,) = store.names(run.run.dir)
            assert name.step == CUT
            found[stage, world] = name.url(run.run.dir)
    return found


def check_pairs(corpus: str, place: Path, worlds: tuple[int, ...], targets: tuple[int, ...]) -> float:
    """Continue from every stage and size of `worlds` at every one of `targets`; the largest difference of a loss."""
    reference = short(corpus, place / "reference", 1)
    run_ranks(train, 1, [(reference, None)])
    expected = dict(loss_curve(reference.run.dir))
    sources = write_sources(corpus, place, worlds)
    worst = 0.0
    for world in targets:
        cases = {}
        for stage, (source, url) in product(STAGES, sources.items()):
            run = place / f"{source[0]}-{source[1]}-to-{stage}-{world}"
            cases[source, stage] = short(corpus, run, stage, f"run.resume={url}")
        run_ranks(train, world, [(case, None) for case in cases.values()])
        for (source, stage), case in cases.items():
            curve = loss_curve(case.run.dir)
            assert [step for step, _ in curve] == list(range(CUT + 1, END + 1))
            off = max(abs(loss - expected[step]) / abs(expected[step]) for step, loss in curve)
            assert off <= 1e-6, f"stage {source[0]} on {source[1]} continued at stage {stage} on {world}: {off:.1e}"
            worst = max(worst, off)
    return worst


@pytest.mark.long
def test_every_stage_continues_every_stage_on_another_number_of_workers(corpus: str, tmp_path: Path) -> None:
    check_pairs(corpus, tmp_path, (2,), (1,))


@pytest.mark.drill
def test_every_pair_of_stages_and_sizes(corpus: str, tmp_path: Path) -> None:
    worst = check_pairs(corpus, tmp_path, (1, 2, 4), (1, 2, 4))
    print(f"144 pairs of stages and sizes 1, 2, 4: largest relative difference of a loss {worst:.1e}")


@pytest.mark.drill
def test_losses_at_every_size_stage_and_accumulation(corpus: str, tmp_path: Path) -> None:
    """20 steps with all terms on, against one worker at stage 0."""
    curves = {}
    for world in (1, 2, 3, 4):
        cases = {
            (world, stage, micro): config(
                corpus,
                tmp_path / f"{world}-{stage}-{micro}",
                f"zero.stage={stage}",
                f"train.accumulation={micro}",
                "train.eval_every=100steps",
                "checkpoint.every=100steps",
                "data.test=",
            )
            for stage, micro in product(STAGES, (1, 2))
        }
        run_ranks(train, world, [(case, None) for case in cases.values()])
        curves |= {key: loss_curve(case.run.dir) for key, case in cases.items()}
    reference = dict(curves[1, 0, 1])
    worst = 0.0
    for key, curve in curves.items():
        assert len(curve) == 20
        off = max(abs(loss - reference[step]) / abs(reference[step]) for step, loss in curve)
        assert off <= 1e-6, f"workers, stage, accumulation {key}: {off:.1e}"
        worst = max(worst, off)
    print(f"{len(curves)} combinations, 20 steps: largest relative difference of a loss {worst:.1e}")


def test_a_run_through_three_interruptions_and_two_changes_of_size(corpus: str, tmp_path: Path) -> None:
    """Sizes 2, 1, 2, 2, at stages 1, 3, 0, 2; every sample once an epoch, and the losses of the run in one piece."""
    whole, pieces = config(corpus, tmp_path / "whole"), tmp_path / "pieces"
    run_ranks(train, 1, [(whole, None)])
    for world, stage, stop in ((2, 1, 6), (1, 3, 11), (2, 0, 15), (2, 2, None)):
        run_ranks(train, world, [(config(corpus, pieces, f"zero.stage={stage}"), stop)])
    for (step, expected), (other, loss) in zip(loss_curve(whole.run.dir), loss_curve(str(pieces)), strict=True):
        assert step == other
        assert abs(loss - expected) <= 1e-6 * abs(expected)
    report = audit(str(pieces))
    assert report.ok
    assert report.attempts == 4
    assert [epoch.complete for epoch in report.epochs] == [True, True, False]


def test_groups_frozen_and_tied_parameters_and_buffers_survive(corpus: str, tmp_path: Path) -> None:
    """A model with all of them, through every stage in turn and back: nothing changes but where it lies."""
    run_ranks(_through_all_stages, 2, str(tmp_path))


def _through_all_stages(rank: int, world: int, place: str) -> None:
    import torch
    from torch import nn

    from ivr_dist.checkpoint.tensors import open_tensors
    from ivr_dist.engine.deepspeed_engine import Engine
    from ivr_dist.runtime import collectives
    from ivr_dist.training.checkpointer import Checkpointer

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(7, 7)
            self.second = nn.Linear(7, 7)
            self.second.weight = self.first.weight
            self.norm = nn.BatchNorm1d(7)
            self.frozen = nn.Linear(7, 3)
            self.frozen.requires_grad_(False)
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.frozen(self.norm(self.second(self.first(x)).tanh())) * self.scale
            return found

    settings = load_config(None, ["data.train=none", "train.select=last", "train.weight_decay=0.1"])
    from ivr_dist.planning.deepspeed_config import deepspeed_config

    def engine(stage: int, url: str) -> Engine:
        from dataclasses import replace

        from ivr_dist.checkpoint.weights import load_weights

        torch.manual_seed(0)
        model = Tied()
        if url:
            load_weights(model, url)
        staged = replace(settings, zero=replace(settings.zero, stage=stage))  # type: ignore[arg-type]
        derived = deepspeed_config(staged, world=world, micro_batch=32, accumulation=1)
        made = Engine(model, derived, weight_decay=0.1, device=torch.device("cpu"))
        if url:
            with open_tensors(url, store.read_state(url)) as tensors:
                made.restore(tensors)
        return made

    def steps(made: Engine, first: int) -> list[float]:
        losses = []
        for step in range(first, first + 2):
            torch.manual_seed(step)
            loss = made.forward(torch.randn(5, 7)).square().mean()
            made.backward(loss)
            made.step({"main": 0.05, "text": 0.0})
            losses.append(float(loss))
        return losses

    def save(made: Engine, step: int) -> str:
        saver = Checkpointer(place, 1, [], made, keep_last=9)
        name = saver.save(small_state(step), None)
        saver.finish()
        return name.url(place)

    whole = engine(1, "")
    expected = [steps(whole, 2 * part) for part in range(5)]
    url, made = "", engine(1, "")
    for part, stage in enumerate((1, 0, 3, 2, 0)):
        made = engine(stage, url)
        found = steps(made, 2 * part)
        assert found == pytest.approx(expected[part], rel=1e-6), f"stage {stage}"
        url = save(made, part + 1)
    if collectives.rank() == 0:
        weights = read_weights(url)
        assert "second.weight" not in weights, "a tied parameter is there once"
        assert int(weights["norm.num_batches_tracked"]) == 10
        torch.manual_seed(0)
        assert torch.equal(weights["frozen.weight"], Tied().frozen.weight)


def test_reshape_rewrites_a_checkpoint_in_other_parts(corpus: str, tmp_path: Path) -> None:
    sources = write_sources(corpus, tmp_path, (2,))
    url = str(tmp_path / "reshaped" / "step-00000007.a01")
    reshape(sources[3, 2], url, 3)
    assert len(store.parts(url)) == 3
    assert store.verify(url).step == CUT
    before, after = read_weights(sources[3, 2]), read_weights(url)
    assert all((before[name] == after[name]).all() for name in before)
    runs = [
        short(corpus, tmp_path / name, 1, f"run.resume={place}") for name, place in (("a", sources[3, 2]), ("b", url))
    ]
    run_ranks(train, 1, [(run, None) for run in runs])
    assert loss_curve(runs[0].run.dir) == loss_curve(runs[1].run.dir)
    assert storage.exists(str(tmp_path / "b" / "result.json"))
