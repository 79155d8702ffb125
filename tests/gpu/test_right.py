"""On CUDA, without Ray: training matches the CPU at every stage, compiled, resumed, on two workers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.evaluation.score_checkpoint import score_checkpoint
from ivr_dist.packing.pack import pack
from ivr_dist.runtime import collectives, device
from tests.repository import ROOT

GPU = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("gpu"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

Curve = dict[int, float]
Metrics = dict[str, dict[str, float]]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("corpus"))
    pack(SynthSource(samples=400, seed=1), place)
    return place


def trained(corpus: str, *runs: tuple[Path, list[str]], on: str = GPU, workers: int = 1) -> list[tuple[Curve, Metrics]]:
    """Losses and metrics of runs, one after the other in one process."""
    words = [on, str(workers), corpus, json.dumps([[str(folder), settings] for folder, settings in runs])]
    done = subprocess.run([sys.executable, "-m", "tests.gpu.once", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return [({int(step): loss for step, loss in run["losses"].items()}, run["metrics"]) for run in found]


def difference(a: Curve, b: Curve) -> float:
    """Largest relative difference of a loss."""
    assert a.keys() == b.keys() and len(a) > 0
    return max(abs(a[step] - b[step]) / abs(b[step]) for step in a)


@pytest.fixture(scope="session")
def on_cpu(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Curve, Metrics]:
    return trained(corpus, (tmp_path_factory.mktemp("cpu"), []), on="cpu")[0]


def test_losses_and_metrics_are_those_of_a_cpu(corpus: str, tmp_path: Path, on_cpu: tuple[Curve, Metrics]) -> None:
    (exact, metrics), (half, _) = trained(corpus, (tmp_path / "f", []), (tmp_path / "b", ["train.dtype=bfloat16"]))
    assert abs(exact[1] - on_cpu[0][1]) < 1e-5 * abs(on_cpu[0][1])
    assert difference(exact, on_cpu[0]) < 1e-3
    assert difference(half, on_cpu[0]) < 0.1
    for name, value in on_cpu[1]["valid"].items():
        assert metrics["valid"][name] == pytest.approx(value, abs=0.05), name
    (checkpoint,) = (tmp_path / "f" / "checkpoints").iterdir()
    scored = score_checkpoint(str(checkpoint), f"{corpus}/valid", 1)
    assert scored == pytest.approx(metrics["valid"], nan_ok=True)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_every_stage_trains_as_stage_0(corpus: str, tmp_path: Path, dtype: str, most: float) -> None:
    optimizer, parameters = "zero.offload_optimizer=cpu", "zero.offload_parameters=cpu"
    ways = [["zero.stage=0"], ["zero.stage=1"], ["zero.stage=2"], ["zero.stage=3"]]
    ways += [["zero.stage=2", optimizer], ["zero.stage=3", optimizer, parameters]]
    runs = [(tmp_path / str(number), [f"train.dtype={dtype}", *way]) for number, way in enumerate(ways)]
    (base, _), *others = trained(corpus, *runs)
    assert {tuple(way): difference(curve, base) < most for way, (curve, _) in zip(ways[1:], others, strict=True)} == {
        tuple(way): True for way in ways[1:]
    }


@pytest.mark.parametrize("settings", [[], ["train.dtype=bfloat16"], ["model.audio.kind=gru"], ["model.preset=release"]])
def test_resumed_runs_are_bitwise_those_in_one_piece(corpus: str, tmp_path: Path, settings: list[str]) -> None:
    flat = ["train.schedule=constant", "train.warmup=0.0", "model.dropout=0.1", "zero.stage=2", *settings]
    if "model.preset=release" in settings:
        flat.append("loss.consistency.group=64")
    whole = [*flat, "train.max_steps=16"]
    one, again, _, two = trained(
        corpus,
        (tmp_path / "one", whole),
        (tmp_path / "again", whole),
        (tmp_path / "two", [*flat, "train.max_steps=8"]),
        (tmp_path / "two", whole),
    )
    assert one[0] == again[0], "the same run twice"
    assert one[0] == two[0]


@pytest.mark.parametrize(
    "settings",
    [[], ["svr.codes=[private]"], ["svr.modalities=[text]"], ["model.preset=release", "loss.consistency.group=64"]],
)
def test_the_probe_measures_what_there_is(corpus: str, tmp_path: Path, settings: list[str]) -> None:
    ((curve, _),) = trained(corpus, (tmp_path, ["log.svr_every=2", "train.max_steps=4", *settings]))
    assert len(curve) == 4 and all(math.isfinite(loss) for loss in curve.values())


def test_compiled_losses(corpus: str, tmp_path: Path) -> None:
    runs = [(tmp_path / how, [f"train.compile={how}", "zero.stage=1"]) for how in ("none", "inductor")]
    (plain, _), (compiled, _) = trained(corpus, *runs)
    assert difference(compiled, plain) < 1e-4


@pytest.mark.parametrize("stage", [0, 1])
def test_two_workers_train_as_one(corpus: str, tmp_path: Path, stage: int) -> None:
    settings = ["train.max_steps=6", f"zero.stage={stage}"]
    ((one, _),) = trained(corpus, (tmp_path / "one", settings))
    ((two, _),) = trained(corpus, (tmp_path / "two", settings), workers=2)
    assert difference(two, one) < 1e-5


def test_the_group_takes_tensors_of_the_host_and_of_the_gpu() -> None:
    with tempfile.TemporaryDirectory() as scratch, collectives.group(f"{scratch}/store", 0, 1):
        for place in ("cpu", device.training_device(0)):
            value = torch.ones(8, dtype=torch.float64, device=place)
            dist.all_reduce(value)
            assert value.tolist() == [1.0] * 8
