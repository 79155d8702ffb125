"""Training gives the same result on any number of workers, at any ZeRO stage, and across interruptions."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.cli.main import main
from ivr_dist.config import Config
from ivr_dist.config.loading import load_config
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.batches.batch import Batch
from ivr_dist.errors import CheckpointMismatchError, CorruptDataError, FaultsError
from ivr_dist.inspection.audit import audit
from ivr_dist.orchestration.preflight import preflight
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.run.events import Event, Note, StepProgress
from ivr_dist.run.results import loss_curve
from ivr_dist.shards.index import load as load_index
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_columns import Samples
from tests.ranks import run_ranks
from tests.small_runs import small_run

pytestmark = pytest.mark.distributed

STAGES = (0, 1, 2, 3)


class Recorder:
    """A console that keeps events, and asks to stop after a given number of steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.events: list[Event] = []
        self._stop_after = stop_after

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def stop_requested(self) -> bool:
        done = max((event.step for event in self.events if isinstance(event, StepProgress)), default=0)
        return self._stop_after is not None and done >= self._stop_after


def config(corpus: str, run: Path, *overrides: str) -> Config:
    """A small run of 20 steps, two and a half epochs, with every loss term on."""
    return load_config(
        None,
        [
            *small_run(corpus, run),
            "train.max_steps=20",
            "train.eval_every=10steps",
            "log.console_s=0",
            *overrides,
        ],
    )


def train(rank: int, world: int, cases: list[tuple[Config, int | None]]) -> None:
    """Each case as one attempt: a config, and the step after which it is interrupted."""
    from ivr_dist.orchestration import worker
    from ivr_dist.run.attempts import read_attempts

    for settings, stop_after in cases:
        worker.train(settings, Recorder(stop_after), rank, len(read_attempts(settings.run.dir)))


@pytest.mark.long
def test_loss_curve_is_the_same_on_1_and_2_workers_at_every_stage(corpus: str, tmp_path: Path) -> None:
    """Promise 1, with accumulation besides; the last step of each epoch is short."""
    variants = [f"zero.stage={stage}" for stage in STAGES] + ["train.accumulation=2"]
    curves = {}
    for world in (1, 2):
        cases = [config(corpus, tmp_path / f"{world}-{variant}", variant) for variant in variants]
        run_ranks(train, world, [(case, None) for case in cases])
        curves |= {(world, variant): loss_curve(case.run.dir) for variant, case in zip(variants, cases, strict=True)}
    reference = curves[1, "zero.stage=0"]
    assert [step for step, _ in reference] == list(range(1, 21))
    assert reference[-1][1] < 0.9 * reference[0][1], "nothing was learnt, so nothing was compared"
    for case, curve in curves.items():
        for (step, expected), (other, value) in zip(reference, curve, strict=True):
            assert step == other
            assert abs(value - expected) <= 1e-6 * abs(expected), f"{case} differs at step {step}"


@pytest.mark.long
def test_preset_release_is_the_same_on_1_and_2_workers(corpus: str, tmp_path: Path) -> None:
    """Batches are padded to the longest of all workers' samples, so the split changes nothing here either."""
    release = ("model.preset=release", "train.max_steps=6", "log.svr_every=3", "train.eval_every=3steps")
    variants = ("zero.stage=0", "zero.stage=3", "train.accumulation=2")
    curves, results = {}, {}
    for world in (1, 2):
        cases = [config(corpus, tmp_path / f"{world}-{variant}", variant, *release) for variant in variants]
        run_ranks(train, world, [(case, None) for case in cases])
        for variant, case in zip(variants, cases, strict=True):
            curves[world, variant] = loss_curve(case.run.dir)
            results[world, variant] = storage.read_json(f"{case.run.dir}/result.json")["metrics"]
    reference = curves[1, "zero.stage=0"]
    assert len(reference) == 6
    # Its reversals pull the loss up, so it need not fall.
    assert abs(reference[-1][1] / reference[0][1] - 1) > 0.01, "nothing was learnt, so nothing was compared"
    for case, curve in curves.items():
        for (step, expected), (other, value) in zip(reference, curve, strict=True):
            assert step == other
            assert abs(value - expected) <= 1e-6 * abs(expected), f"{case} differs at step {step}"
        assert results[case]["test"]["synth/mae"] == pytest.approx(
            results[1, "zero.stage=0"]["test"]["synth/mae"], rel=1e-5
        )


def test_interrupted_runs_continue_bitwise_and_see_each_sample_once(corpus: str, tmp_path: Path) -> None:
    """Three pieces of one run, with dropout, against the run in one piece."""
    variants = ("zero.stage=0", "zero.stage=2", "zero.stage=3")
    cases: list[tuple[Config, int | None]] = []
    for variant in variants:
        whole = config(corpus, tmp_path / f"whole-{variant}", variant, "model.dropout=0.2")
        pieces = config(corpus, tmp_path / f"pieces-{variant}", variant, "model.dropout=0.2")
        cases += [(whole, None), (pieces, 7), (pieces, 13), (pieces, None)]
    run_ranks(train, 2, cases)
    for (whole, _), (pieces, _) in zip(cases[::4], cases[1::4], strict=True):
        assert loss_curve(pieces.run.dir) == loss_curve(whole.run.dir)
        report = audit(pieces.run.dir)
        assert report.ok
        assert report.attempts == 3
        assert [epoch.complete for epoch in report.epochs] == [True, True, False]


def test_a_lost_tail_is_trained_again_and_counted_once(corpus: str, tmp_path: Path) -> None:
    """What a fault leaves: steps in the ledger after the newest checkpoint, and a checkpoint that is not complete."""
    settings = config(corpus, tmp_path / "run", "checkpoint.keep_last=10")
    run_ranks(train, 2, [(settings, 12)])
    newest = store.names(settings.run.dir)[0]
    assert newest.step == 12
    (Path(newest.url(settings.run.dir)) / "part-00001.json").unlink()
    run_ranks(train, 2, [(settings, None)])
    report = audit(settings.run.dir)
    assert report.ok
    assert report.lost_steps == []
    assert [step for step, _ in loss_curve(settings.run.dir)] == list(range(1, 21))


def refuse(rank: int, world: int, cases: list[tuple[Config, str]]) -> None:
    from ivr_dist.orchestration import worker

    for settings, message in cases:
        with pytest.raises(CheckpointMismatchError if rank == 0 else Exception, match=message):
            worker.train(settings, Recorder(), rank, 9)


def test_checkpoints_of_another_run_are_refused(corpus: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_ranks(train, 2, [(config(corpus, run), 5)])
    faults = {
        "model.hidden=32": "model.hidden is 16 there and 32 here",
        "run.seed=5": "run.seed is 0 there and 5 here",
        "data.standardize=[]": r"data.standardize is \[audio, vision\] there and \[\] here",
        "loss.svr.weight=0": "loss.svr.weight is 1 there and 0 here",
        "data.by_length=true": "data.by_length is false there and true here",
    }
    run_ranks(refuse, 2, [(config(corpus, run, override), message) for override, message in faults.items()])


def test_patience_ends_training_and_the_best_checkpoint_is_scored(corpus: str, tmp_path: Path) -> None:
    """With a learning rate of nothing no evaluation improves on the first."""
    settings = config(corpus, tmp_path / "run", "train.lr=1e-12", "train.eval_every=2steps", "train.patience=2")
    run_ranks(train, 1, [(settings, None)])
    result = storage.read_json(str(tmp_path / "run" / "result.json"))
    assert result["status"] == "early"
    assert result["steps"] < 20
    assert result["metrics"].keys() == {"valid", "test"}
    assert store.verify(result["checkpoint"]).progress.best_checkpoint in result["checkpoint"]


def test_a_run_that_died_before_its_result_concludes_when_started_again(corpus: str, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path / "run", "train.select=last")
    result = str(tmp_path / "run" / "result.json")
    run_ranks(train, 1, [(settings, None)])
    first = storage.read_json(result)
    storage.delete_tree(result)
    run_ranks(train, 1, [(settings, None)])
    again = storage.read_json(result)
    assert (again["checkpoint"], again["metrics"]) == (first["checkpoint"], first["metrics"])


def test_a_run_from_the_checkpoint_of_another_compares_with_itself(corpus: str, tmp_path: Path) -> None:
    """The new run learns nothing, so it never beats what the other run had."""
    other = config(corpus, tmp_path / "other")
    run_ranks(train, 1, [(other, 12)])
    start = store.names(other.run.dir)[0].url(other.run.dir)
    settings = config(corpus, tmp_path / "run", "train.lr=1e-12", f"run.resume={start}")
    run_ranks(train, 1, [(settings, None)])
    result = storage.read_json(str(tmp_path / "run" / "result.json"))
    assert result["steps"] == 20
    assert result["checkpoint"].startswith(str(tmp_path / "run"))
    assert [step for step, _ in loss_curve(settings.run.dir)] == list(range(13, 21))


def test_a_run_that_trains_again_has_no_result_until_it_ends(corpus: str, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path / "run")
    anew = config(corpus, tmp_path / "run", "run.resume=never")
    run_ranks(train, 1, [(settings, None), (anew, 5)])
    assert not (tmp_path / "run" / "result.json").exists()


def meet_nan(rank: int, world: int, settings: Config) -> None:
    """Train where the second rank's samples got a value that is not a number after they were packed."""
    from ivr_dist.data import loader
    from ivr_dist.orchestration import worker

    plain = loader.collate

    def spoilt(samples: Samples, *rest: Any) -> Batch:
        if rank == 1:
            vision = samples.columns["vision"]
            values = [np.full(len(one) // 4, np.nan, np.float32).tobytes() for one in vision.values]
            samples = replace(samples, columns={**samples.columns, "vision": replace(vision, values=values)})
        return plain(samples, *rest)

    named = pytest.raises(
        CorruptDataError, match=r"vision of sample synth_\d+ holds .*corpus synth, split train, step 1"
    )
    with patch.object(loader, "collate", spoilt), named:
        worker.train(settings, Recorder(), rank, 0)


def test_input_that_is_not_finite_ends_the_run_by_name_on_all_ranks(corpus: str, tmp_path: Path) -> None:
    run_ranks(meet_nan, 2, config(corpus, tmp_path / "run"))


def train_on_damage(rank: int, world: int, skipping: Config, cut: Config, refusing: Config, excluding: Config) -> None:
    """Train where one segment is damaged: once through, in two pieces, too strictly, and without its samples."""
    from ivr_dist.orchestration import worker
    from ivr_dist.run.attempts import read_attempts
    from ivr_dist.runtime import collectives

    console = Recorder()
    worker.train(skipping, console, rank, 0)
    notes = [event.text for event in console.events if isinstance(event, Note)]
    assert all("skips synth_" in note and "do not match their checksum" in note for note in notes)
    # Of twelve damaged samples, in two and a half epochs; each rank tells its own, in a line for each step.
    named = sum(note.partition(": samples")[0].count("synth_") for note in notes)
    assert 24 <= sum(collectives.gather(named)) <= 36
    assert len(notes) == len({note.split()[1] for note in notes})
    for stop_after in (3, None):
        worker.train(cut, Recorder(stop_after), rank, len(read_attempts(cut.run.dir)))
    with pytest.raises(CorruptDataError, match=r"[67] samples of epoch 0 could not be read.*data\.max_skipped = 5"):
        worker.train(refusing, Recorder(), rank, 0)
    for stop_after in (3, None):
        console = Recorder(stop_after)
        worker.train(excluding, console, rank, len(read_attempts(excluding.run.dir)))
        notes = [event.text for event in console.events if isinstance(event, Note)]
        assert notes == ["data.exclude leaves out 12 of 234 samples of train"] * (rank == 0)
        if stop_after and rank == 0:
            refused_lists(excluding)


def refused_lists(excluding: Config) -> None:
    """Continuing with another list, or without one, is refused by the cursor of the checkpoint."""
    from ivr_dist.data.exclusions import Exclusions

    manifest = Manifest.load(excluding.data.train)
    (url,) = (name.url(excluding.run.dir) for name in store.names(excluding.run.dir))
    cursor = store.read_state(url).cursor
    assert cursor is not None and cursor.excluded.startswith("12:")
    for other, here in ((Exclusions(), "none"), (Exclusions.of([1, 2], manifest.id), r"2 samples \(list \w{12}\)")):
        with pytest.raises(CheckpointMismatchError, match=rf"leaves out 12 samples .*, this run {here};"):
            cursor.check_matches(replace(cursor, excluded=other.digest))


def test_shards_from_a_command_and_slots_by_length(corpus: str, tmp_path: Path) -> None:
    """The tars are not where the manifest is; the losses are those of reading ranges, on 1 and 2 workers."""
    shutil.copytree(corpus, tmp_path / "data")
    (tmp_path / "store").mkdir()
    for tar in (tmp_path / "data").glob("*/*.tar"):
        tar.rename(tmp_path / "store" / tar.name)
    few = ("train.max_steps=10", "data.by_length=true")
    pipe = f"data.pipe=cat {tmp_path}/store/$(basename {{}})"
    streamed = config(str(tmp_path / "data"), tmp_path / "streamed", *few, "data.reader=webdataset", pipe)
    with pytest.raises(FaultsError, match=r"3 faults[\s\S]*train-000000\.tar is missing"):
        preflight(replace(streamed, data=replace(streamed.data, pipe="")), 2)
    preflight(streamed, 2)
    ranges = config(corpus, tmp_path / "ranges", *few)
    run_ranks(train, 1, [(ranges, None)])
    run_ranks(train, 2, [(streamed, None)])
    for (_, expected), (_, found) in zip(loss_curve(ranges.run.dir), loss_curve(streamed.run.dir), strict=True):
        assert abs(found - expected) <= 1e-6 * abs(expected)
    assert audit(streamed.run.dir).ok


def test_damage_that_may_be_skipped_is_counted_and_nothing_else_moves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(SynthSource(samples=334, seed=1), str(tmp_path / "data"), PackOptions(shard_samples=12))
    shard = tmp_path / "data" / "train" / Manifest.load(str(tmp_path / "data" / "train")).shards[3].name
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    cases = [
        config(
            str(tmp_path / "data"), tmp_path / name, "data.on_error=skip", f"data.max_skipped={most}", "train.lr=0.01"
        )
        for name, most in (("skipping", 12), ("cut", 12), ("refusing", 5))
    ]
    lost = load_index(str(shard.with_suffix(".idx"))).names
    (tmp_path / "withdrawn.txt").write_text("".join(f"{id_}\n" for id_ in lost))
    # Their damage is no error: samples that are left out are not even read.
    excluding = config(
        str(tmp_path / "data"), tmp_path / "excluding", f"data.exclude={tmp_path}/withdrawn.txt", "train.lr=0.01"
    )
    run_ranks(train_on_damage, 2, *cases, excluding)
    for settings in cases[:2]:
        report = audit(settings.run.dir)
        assert report.ok
        assert [len(epoch.skipped) for epoch in report.epochs[:2]] == [12, 12]
        assert [epoch.seen for epoch in report.epochs[:2]] == [222, 222]
        assert [epoch.verdict for epoch in report.epochs[:2]] == ["exactly once or skipped"] * 2
        assert main(["audit", settings.run.dir]) == 0
        assert f"exactly once except {report.skipped} skipped" in capsys.readouterr().out
    assert loss_curve(cases[0].run.dir) == loss_curve(cases[1].run.dir) == loss_curve(excluding.run.dir)
    report = audit(excluding.run.dir)
    assert report.ok, report
    assert [(epoch.seen, epoch.left_out, len(epoch.skipped)) for epoch in report.epochs[:2]] == [(222, 12, 0)] * 2
    assert [epoch.verdict for epoch in report.epochs[:2]] == ["exactly once or left out"] * 2
    assert main(["audit", excluding.run.dir]) == 0
    assert "each sample counted exactly once: 234 samples, 12 left out by data.exclude, 20" in capsys.readouterr().out


@pytest.mark.long
def test_a_compiled_run_is_the_same(corpus: str, tmp_path: Path) -> None:
    """With the loss terms' sums over ranks inside the compiled part, and with the second backward pass of the probe."""
    # Two modalities: the compiler takes as long as the graph is large.
    few = ("train.max_steps=4", "log.svr_every=2", "data.modalities=[text, vision]", "zero.stage=2")
    plain = config(corpus, tmp_path / "plain", *few)
    compiled = config(corpus, tmp_path / "compiled", *few, "train.compile=aot_eager")
    run_ranks(train, 2, [(plain, None), (compiled, None)])
    reference, curve = loss_curve(plain.run.dir), loss_curve(compiled.run.dir)
    assert [step for step, _ in curve] == [step for step, _ in reference] == [1, 2, 3, 4]
    for (step, expected), (_, value) in zip(reference, curve, strict=True):
        assert abs(value - expected) <= 1e-5 * abs(expected), f"step {step}"
