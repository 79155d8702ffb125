"""Failed steps, failed checkpoint writes and stop requests: all ranks take the same decision."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from torch import Tensor

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.config import Config
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.errors import CheckpointError, DivergedError, IvrError, StorageError, SupersededError
from ivr_dist.inspection.audit import audit
from ivr_dist.run.attempts import allocate, read_attempts
from ivr_dist.run.events import CheckpointSaved, Event, Note, StepProgress
from ivr_dist.run.results import loss_curve
from ivr_dist.training.trainer import Trainer
from tests.distributed.test_training import Recorder, config
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

BAD = 8


def small(corpus: str, run: Path, *more: str) -> Config:
    return config(corpus, run, "train.max_steps=14", "data.test=", "train.eval_every=100steps", *more)


def spoilt_gradient(rank: int, steps: tuple[int, ...], micro_steps: int) -> AbstractContextManager[object]:
    """The second rank's gradient of these steps is not a number, while its loss is."""
    plain, calls = Engine.backward, [0]

    def backward(self: Engine, loss: Tensor) -> None:
        calls[0] += 1
        bad = rank == 1 and (calls[0] - 1) // micro_steps + 1 in steps
        plain(self, loss * math.nan if bad else loss)

    return patch.object(Engine, "backward", backward)


def train_spoilt(rank: int, world: int, cases: list[tuple[Config, int]]) -> None:
    from ivr_dist.orchestration import worker

    for settings, micro_steps in cases:
        console = Recorder()
        with spoilt_gradient(rank, (BAD,), micro_steps):
            assert worker.train(settings, console, rank, 0) == "finished"
        notes = [event.text for event in console.events if isinstance(event, Note)]
        assert any(f"step {BAD} is skipped: the gradient is not finite; worker {rank} had synth_" in n for n in notes)


@pytest.mark.long
def test_a_step_whose_gradient_is_not_finite_is_left_out_at_every_stage(corpus: str, tmp_path: Path) -> None:
    """Weights stay as they were, the samples are told as skipped, and all stages go on alike."""
    cases = []
    for stage, micro in ((0, 1), (1, 2), (2, 1), (3, 1), (0, 2)):
        more = (f"zero.stage={stage}", f"train.accumulation={micro}", "train.on_fault=skip")
        cases.append((small(corpus, tmp_path / f"{stage}-{micro}", *more), micro))
    run_ranks(train_spoilt, 2, cases)
    curves = [dict(loss_curve(settings.run.dir)) for settings, _ in cases]
    for curve, (settings, _) in zip(curves, cases, strict=True):
        assert sorted(curve) == [step for step in range(1, 15) if step != BAD]
        assert all(curve[step] == pytest.approx(curves[0][step], rel=1e-6) for step in curve)
        report = audit(settings.run.dir)
        assert report.ok
        assert report.skipped == (10 if BAD % 8 == 0 else 32), "step 8 is the short one of its epoch"
        state = store.verify(storage.read_json(f"{settings.run.dir}/result.json")["checkpoint"])
        assert state.progress.faults == 1


def test_a_rollback_goes_back_and_leaves_the_window_out(corpus: str, tmp_path: Path) -> None:
    """The checkpoint of step 5 is loaded, steps 6 to 8 are not trained, and the run goes on at step 9."""
    settings = small(corpus, tmp_path / "run", "train.on_fault=rollback", "train.rollback_steps=2")
    run_ranks(train_spoilt, 2, [(settings, 1)])
    assert [step for step, _ in loss_curve(settings.run.dir)] == [*range(1, 6), *range(9, 15)]
    first, second = read_attempts(settings.run.dir)
    assert (second.parent, second.step) == (first.number, 5)
    report = audit(settings.run.dir)
    assert report.ok
    assert report.lost_steps == []
    assert report.skipped == 32 + 32 + 10


def refuse(rank: int, world: int, raising: Config, exhausted: Config) -> None:
    from ivr_dist.orchestration import worker

    once = pytest.raises(DivergedError, match=f"step {BAD}: the gradient is not finite")
    with spoilt_gradient(rank, (BAD,), 1), once:
        worker.train(raising, Recorder(), rank, 0)
    thrice = pytest.raises(DivergedError, match=r"step 5: .*, after 2 failed steps")
    with spoilt_gradient(rank, (3, 4, 5), 1), thrice:
        worker.train(exhausted, Recorder(), rank, 0)


def test_faults_end_the_run_where_the_policy_says_so(corpus: str, tmp_path: Path) -> None:
    raising = small(corpus, tmp_path / "raising")
    exhausted = small(corpus, tmp_path / "exhausted", "train.on_fault=skip", "train.max_faults=2")
    run_ranks(refuse, 2, raising, exhausted)


def train_on_bad_storage(rank: int, world: int, tolerant: Config, strict: Config, place: str) -> None:
    """The second rank cannot write its part of the checkpoints of steps 5 and 10."""
    from ivr_dist.orchestration import worker

    plain = store.write_part

    def failing(url: str, part: int, *rest: object) -> None:
        if part == 1 and ("step-00000005" in url or "step-00000010" in url):
            raise StorageError("no space", where=url, remedy="free some")
        plain(url, part, *rest)  # type: ignore[arg-type]

    console = Recorder()
    with patch.object(store, "write_part", failing):
        assert worker.train(tolerant, console, rank, 0) == "finished"
        notes = [event.text for event in console.events if isinstance(event, Note)]
        assert sum("could not be written: no space" in note for note in notes) == (2 if rank == 1 else 0)
        with pytest.raises(CheckpointError, match="2 checkpoints in a row could not be written"):
            worker.train(strict, Recorder(), rank, 0)


def test_training_outlives_checkpoints_that_cannot_be_written(corpus: str, tmp_path: Path) -> None:
    tolerant = small(corpus, tmp_path / "tolerant", "checkpoint.max_failed=2")
    strict = small(corpus, tmp_path / "strict", "checkpoint.max_failed=1")
    run_ranks(train_on_bad_storage, 2, tolerant, strict, str(tmp_path))
    result = storage.read_json(str(tmp_path / "tolerant" / "result.json"))
    assert "step-00000014" in result["checkpoint"]
    names = [name.step for name in store.names(str(tmp_path / "tolerant"))]
    assert names == [14], "keep_last counts complete ones; the torn ones of steps 5 and 10 are gone"
    assert audit(str(tmp_path / "tolerant")).ok


def conclude_damaged(rank: int, world: int, settings: Config, damaged: list[str]) -> None:
    """Checkpoints are damaged between the last step and the scores; the first one is said to be the best."""
    from ivr_dist.orchestration import worker
    from ivr_dist.runtime import collectives
    from ivr_dist.training import attempt

    plain = attempt.write_result

    def damage(config: Config, run_url: str, trainer: Trainer, *rest: Any) -> None:
        names = store.names(run_url)
        which = {"best": names[-1], "last": names[0]}
        if rank == 0:
            for name in damaged:
                target = Path(which[name].url(run_url)) / store.weights_file(1)
                target.write_bytes(target.read_bytes()[:-4] + b"\0\0\x80\x3f")
        collectives.gather(None)
        trainer.progress = replace(trainer.progress, best_checkpoint=str(which["best"]))
        plain(config, run_url, trainer, *rest)

    console = Recorder()
    with patch.object(attempt, "write_result", damage):
        if "last" in damaged:
            with pytest.raises(IvrError, match=r"the last checkpoint cannot be scored.*weights-00001\.safetensors"):
                worker.train(settings, console, rank, 0)
        else:
            assert worker.train(settings, console, rank, 0) == "finished"
    notes = [event.text for event in console.events if isinstance(event, Note)]
    said = sum("the best one, is damaged; the last one is scored" in note for note in notes)
    assert said == ("best" in damaged and rank == 0)


def test_scored_checkpoints_are_verified(corpus: str, tmp_path: Path) -> None:
    """One rank alone reads the damaged file: all take the last checkpoint, or end."""
    for damaged, scored in ((["best"], "step-00000014"), (["best", "last"], None)):
        settings = small(corpus, tmp_path / "-".join(["run", *damaged]), "checkpoint.keep_last=2")
        run_ranks(conclude_damaged, 2, settings, damaged)
        result = Path(settings.run.dir) / "result.json"
        assert result.exists() == (scored is not None)
        assert scored is None or scored in storage.read_json(str(result))["checkpoint"]


def train_superseded(rank: int, world: int, settings: Config) -> None:
    """Another group has taken the run over while this one, cut off from all but storage, trains on."""
    from ivr_dist.orchestration import worker

    class Intruder(Recorder):
        def emit(self, event: Event) -> None:
            super().emit(event)
            if isinstance(event, CheckpointSaved):
                allocate(settings.run.dir, parent=1, step=5, stage=1, steps_per_epoch=8, workers=["other:1"])

    with pytest.raises(SupersededError, match=r"attempt 1 of this run was superseded by attempt 2"):
        worker.train(settings, Intruder(), rank, 0)


def test_a_worker_that_was_given_up_writes_no_checkpoint_and_deletes_none(corpus: str, tmp_path: Path) -> None:
    settings = small(corpus, tmp_path / "run", "checkpoint.keep_last=1")
    run_ranks(train_superseded, 1, settings)
    (name,) = store.names(settings.run.dir)
    assert name.step == 5
    store.verify(name.url(settings.run.dir))
    assert not (tmp_path / "run" / "result.json").exists()


def train_until_file(rank: int, world: int, settings: Config) -> None:
    from ivr_dist.orchestration import worker
    from ivr_dist.training import rank_agreement

    class Writer(Recorder):
        def emit(self, event: Event) -> None:
            super().emit(event)
            if isinstance(event, StepProgress) and event.step == 3:
                storage.write_text(f"{settings.run.dir}/stop", "")

    with patch.object(rank_agreement, "_STOP_FILE_PERIOD_S", 0.01):
        assert worker.train(settings, Writer(), rank, 0) == "stop file"


def test_the_stop_file_ends_all_ranks_after_a_checkpoint(corpus: str, tmp_path: Path) -> None:
    settings = config(
        corpus, tmp_path / "run", "train.max_steps=100000", "data.test=", "data.valid=", "train.select=last"
    )
    run_ranks(train_until_file, 2, settings)
    newest = store.names(settings.run.dir)[0]
    assert newest.step >= 3
    assert store.verify(newest.url(settings.run.dir)).step == newest.step
