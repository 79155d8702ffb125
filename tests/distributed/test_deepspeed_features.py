"""DeepSpeed features besides ZeRO stages: other optimizers, offloading, recomputation; their runs resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivr_dist.checkpoint.store import CheckpointName
from ivr_dist.config import Config
from ivr_dist.run.results import loss_curve
from tests.distributed.test_training import config, train
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

MUON = ("train.optimizer=muon", "train.muon_lr=0.03", "train.grad_clip=0")
STEPS, CUT = 8, 5


def small(corpus: str, run: Path, *more: str) -> Config:
    fixed = (f"train.max_steps={STEPS}", "data.test=", "train.eval_every=100steps", "checkpoint.every=100steps")
    return config(corpus, run, *fixed, *more)


def curves(corpus: str, place: Path, cases: dict[str, tuple[str, ...]], world: int) -> dict[str, dict[int, float]]:
    runs = {name: small(corpus, place / f"{world}-{name}", *more) for name, more in cases.items()}
    run_ranks(train, world, [(run, None) for run in runs.values()])
    return {name: dict(loss_curve(run.run.dir)) for name, run in runs.items()}


@pytest.mark.long
def test_offloading_and_recomputing_change_no_loss(corpus: str, tmp_path: Path) -> None:
    masked = ("model.dropout=0.3",)
    cases = {
        "plain": (),
        "offload 2": ("zero.stage=2", "zero.offload_optimizer=cpu", "train.accumulation=2"),
        "offload 3": ("zero.stage=3", "zero.offload_optimizer=cpu", "zero.offload_parameters=cpu"),
        "recompute": ("train.recompute=true",),
        "masked": masked,
        "masked recompute": (*masked, "train.recompute=true"),
    }
    found = curves(corpus, tmp_path, cases, 2)
    for name in ("offload 2", "offload 3", "recompute"):
        assert found[name] == pytest.approx(found["plain"], rel=1e-6), name
    # Dropout draws the same masks when a layer is computed again.
    assert found["masked recompute"] == pytest.approx(found["masked"], rel=1e-6)
    assert found["masked"] != pytest.approx(found["plain"], rel=1e-3)


@pytest.mark.long
def test_runs_with_them_continue(corpus: str, tmp_path: Path) -> None:
    """Bitwise at the same size; Muon's momentum moves between stages and sizes like all else."""
    kinds = {"muon": (*MUON, "zero.stage=2"), "offload": ("zero.stage=2", "zero.offload_optimizer=cpu")}
    cases: list[tuple[Config, int | None]] = []
    for name, more in kinds.items():
        whole, pieces = (small(corpus, tmp_path / each, *more) for each in (f"{name}-whole", name))
        cases += [(whole, None), (pieces, CUT), (pieces, None)]
    run_ranks(train, 2, cases)
    whole_curves = {name: loss_curve(str(tmp_path / f"{name}-whole")) for name in kinds}
    for name, curve in whole_curves.items():
        assert loss_curve(str(tmp_path / name)) == curve, name
    url = CheckpointName(CUT, 1).url(str(tmp_path / "muon"))
    moved = small(corpus, tmp_path / "moved", *MUON, "zero.stage=1", f"run.resume={url}")
    run_ranks(train, 1, [(moved, None)])
    # Its iteration runs in bfloat16, where the smallest difference becomes one of a hundredth.
    assert dict(loss_curve(moved.run.dir)) == pytest.approx(dict(whole_curves["muon"][CUT:]), rel=2e-2)


@pytest.mark.drill
def test_muon_is_the_same_at_every_stage_and_on_one_and_two_workers(corpus: str, tmp_path: Path) -> None:
    longer = "train.max_steps=12"
    cases = {f"stage {stage}": (*MUON, longer, f"zero.stage={stage}") for stage in (1, 2, 3)}
    found = {world: curves(corpus, tmp_path, cases, world) for world in (1, 2)}
    reference = found[1]["stage 1"]
    plain = curves(corpus, tmp_path, {"adamw": (longer,)}, 1)["adamw"]
    assert reference[12] < reference[1]
    assert reference != pytest.approx(plain, rel=1e-3), "Muon did nothing"
    for world in (1, 2):
        for name, curve in found[world].items():
            assert curve == pytest.approx(reference, rel=2e-2), f"{name} on {world}"
