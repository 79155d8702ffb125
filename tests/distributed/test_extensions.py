"""Extension classes in whole runs: the examples of docs/extending.md on 1 and 2 workers at every ZeRO stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ivr_dist import storage
from ivr_dist.cli.main import main
from ivr_dist.config import Config
from ivr_dist.config.loading import load_config
from ivr_dist.run.events import Event
from ivr_dist.run.ledger import read_lineage
from ivr_dist.run.paths import HISTORY
from tests.extending_examples import write_examples
from tests.ranks import run_ranks
from tests.repository import ROOT
from tests.small_runs import small_run

pytestmark = pytest.mark.distributed

CONTRAST = (
    "loss.extra={contrast: {class: mine.parts:Contrast, weight: 0.5}}",
    "eval.metrics={close: {class: mine.parts:WithinMargin, margin: 1.0}}",
    "run.callbacks=[{class: tests.extension_parts:Recorder, folder: FOLDER}, mine.parts:OnStall]",
)
LATE = (
    "model.class={class: mine.parts:LateFusion, width: 16}",
    *(f"loss.{name}.weight=0" for name in ("consistency", "adversary", "reconstruction", "svr")),
)


class Silent:
    def emit(self, event: Event) -> None: ...

    def stop_requested(self) -> bool:
        return False


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the command, with the package `mine`."""
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(corpus: str, run: Path, *overrides: str) -> Config:
    return load_config(None, settings(corpus, run, *overrides))


def settings(corpus: str, run: Path, *overrides: str) -> list[str]:
    return [
        *small_run(corpus, run),
        "train.max_steps=10",
        "train.eval_every=5steps",
        "log.svr_every=3",
        *(override.replace("FOLDER", str(run.parent)) for override in overrides),
    ]


def train(rank: int, world: int, folder: str, cases: list[Config]) -> None:
    """What `worker.ray_entry` does with the folder of the command, and each case."""
    from ivr_dist.common import dotted_path
    from ivr_dist.orchestration import worker

    dotted_path.add_folder(folder)
    for case in cases:
        worker.train(case, Silent(), rank, 0)


def history(run: str) -> dict[int, dict[str, float]]:
    """By step: the loss and every term."""
    records = [record for _, _, record in read_lineage(run, HISTORY) if "loss" in record]
    return {record["step"]: {"loss": record["loss"], **record["terms"]} for record in records}


@pytest.mark.long
@pytest.mark.parametrize("own", [CONTRAST, LATE], ids=["term, metric and callbacks", "model"])
def test_the_curves_are_the_same_on_1_and_2_workers_at_every_stage(
    own: tuple[str, ...], corpus: str, folder: Path
) -> None:
    variants = [*(f"zero.stage={stage}" for stage in range(4)), "train.accumulation=2"]
    curves = {}
    for world in (1, 2):
        cases = []
        for variant in variants:
            place = folder / f"{world}-{variant}"
            place.mkdir()
            cases.append(config(corpus, place / "run", variant, *own))
        run_ranks(train, world, str(folder), cases)
        curves |= {(world, variant): history(c.run.dir) for variant, c in zip(variants, cases, strict=True)}
    reference = curves[1, "zero.stage=0"]
    assert list(reference) == list(range(1, 11))
    assert reference[10]["loss"] < 0.98 * reference[1]["loss"], "nothing was learnt, so nothing was compared"
    assert ("contrast" in reference[1]) == (own is CONTRAST)
    for case, curve in curves.items():
        for step, values in curve.items():
            assert values == pytest.approx(reference[step], rel=1e-5), f"{case} differs at step {step}"
    for world in (1, 2) if own is CONTRAST else ():
        for rank in range(world):
            lines = (folder / f"{world}-zero.stage=2" / f"calls-{rank}.txt").read_text().splitlines()
            assert lines[0] == f"start 1 0 of 10 on {world}" and lines[-1] == "close" and len(lines) == 14
            assert all("'close'" in line for line in lines if line.startswith("evaluation"))


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """An `ivr-dist` command whose Python does not look for modules in the current directory by itself."""
    return subprocess.run(
        [sys.executable, "-P", "-c", "from ivr_dist.cli.main import main; raise SystemExit(main())", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
def test_a_run_records_its_classes_and_is_scored_where_they_are(corpus: str, folder: Path) -> None:
    here = settings(corpus, folder / "run", *LATE, *CONTRAST[1:2], "run.num_workers=0", "train.max_steps=3")
    (folder / "empty.yaml").write_text("")
    done = command(folder, "train", "empty.yaml", *here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine.parts:LateFusion" in done.stdout and "extra metric" in done.stdout
    result = storage.read_json(str(folder / "run" / "result.json"))
    checkpoint = str(folder / "run" / "checkpoints" / Path(result["checkpoint"]).name)
    state = storage.read_json(f"{checkpoint}/state.json")
    assert state["classes"]["model.class"]["class"] == "mine.parts:LateFusion"
    assert state["classes"]["model.class"]["version"].startswith("sha256:")
    assert "synth/close" in result["metrics"]["test"]

    refused = command(folder, "evaluate", checkpoint)
    assert refused.returncode == 2 and "give --trust-code" in refused.stderr
    scored = command(folder, "evaluate", checkpoint, "--trust-code", "--json")
    assert scored.returncode == 0, scored.stderr
    for name in ("synth/mae", "synth/close"):
        assert f'"{name}": {result["metrics"]["test"][name]}' in scored.stdout
    (folder / "elsewhere").mkdir()
    absent = command(folder / "elsewhere", "evaluate", checkpoint, "--trust-code")
    assert absent.returncode == 2
    assert "it needs mine.parts:LateFusion (version sha256:" in absent.stderr and "no module mine" in absent.stderr


def test_all_errors_are_reported_before_anything_starts(
    corpus: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty.yaml").write_text("")
    wrong = (
        "model.class=tests.extension_parts:Averages",
        "loss.extra={mine: tests.extension_parts:Contrst, other: tests.extension_parts:Contrast}",
        "run.callbacks=[tests.extension_parts:Misspelt]",
        "eval.metrics={mae: tests.extension_parts:Median}",
    )
    assert main(["train", "empty.yaml", *settings(corpus, folder / "run", *wrong, "run.num_workers=0")]) == 2
    lines = capsys.readouterr().err.splitlines()
    model = "which tests.extension_parts:Averages does not return"
    assert [line.strip() for line in lines[1:]] == [
        "tests.extension_parts:Misspelt: nothing calls a hook on_stepp (run.callbacks[0]); did you mean on_step?",
        "eval.metrics.mae has the name of a built-in metric; choose another name",
        "tests.extension_parts has no Contrst (loss.extra.mine); did you mean Contrast?",
        f"loss.extra.other needs pooled_shared, {model} (loss.extra.other); remove it, or use another model",
        *(
            f"{loss} needs {parts}, {model} ({loss}); set {loss}.weight=0, or use another model"
            for loss, parts in (
                ("loss.consistency", "pooled_shared"),
                ("loss.adversary", "logits_shared, logits_private, class_penalty"),
                ("loss.reconstruction", "encoded, reconstructed"),
                ("loss.svr", "shared, private"),
            )
        ),
    ]
    assert not (folder / "run").exists()
