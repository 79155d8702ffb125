"""A pool trained on Ray through kills: each pass over each corpus trained once, the losses of a run without kills."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ivr_dist.inspection.audit import audit
from ivr_dist.run.attempts import read_attempts
from ivr_dist.run.results import loss_curve
from tests.pools import SIZES, pack_pool, pool_run
from tests.ranks import run_ranks
from tests.ray.clusters import Cluster
from tests.ray.test_train_faults import finish, saved, start, wait_for
from tests.ray.uninterrupted import train_in_one_piece

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.xdist_group("ray")]

STEPS = 40
"""Three epochs and a half."""


def test_a_pool_survives_sigkill_of_a_worker_and_of_its_driver_and_goes_on_with_fewer_workers(
    tmp_path: Path, cluster: Cluster
) -> None:
    pack_pool(str(tmp_path / "pool"))
    length = (f"train.max_steps={STEPS}", "train.eval_every=20steps", "log.console_s=0.2", "zero.stage=2")
    whole, run = (
        [*pool_run(str(tmp_path / "pool"), tmp_path / name), *length, "run.num_workers=2"] for name in ("whole", "run")
    )
    run_ranks(train_in_one_piece, 2, whole)
    reference = loss_curve(str(tmp_path / "whole"))

    process = start(run, address=cluster.address)
    wait_for(saved(tmp_path / "run", 8), process)
    _, _, worker = read_attempts(str(tmp_path / "run"))[0].workers[1].rpartition(":")
    os.kill(int(worker), signal.SIGKILL)
    wait_for(lambda: len(read_attempts(str(tmp_path / "run"))) == 2, process)
    wait_for(saved(tmp_path / "run", 24), process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    process = start([*run, "run.num_workers=1"], address=cluster.address)
    output = finish(process)
    assert process.returncode == 0, output
    attempts = read_attempts(str(tmp_path / "run"))
    assert [attempt.world for attempt in attempts] == [2, 2, 1]
    resumed_at = attempts[-1].step
    assert 24 <= resumed_at < STEPS, "killed in the middle, so that the number of workers changed in it"

    curve = loss_curve(str(tmp_path / "run"))
    assert curve[:resumed_at] == reference[:resumed_at], "bitwise on as many workers"
    assert [step for step, _ in curve] == [step for step, _ in reference] == list(range(1, STEPS + 1))
    # Another number of workers adds in another order.
    for (step, loss), (_, expected) in zip(curve, reference, strict=True):
        assert abs(loss - expected) <= 1e-6 * abs(expected), f"step {step}"

    report = audit(str(tmp_path / "run"))
    assert report.ok and report.attempts == 3, report.problems
    for name, samples in SIZES.items():
        passes = [each for each in report.epochs if each.corpus == name]
        whole_passes = [each for each in passes if each.complete]
        assert whole_passes, f"no whole pass over {name}"
        assert [each.epoch for each in passes] == list(range(len(passes)))
        for each in whole_passes:
            assert each.seen == round(0.7 * samples) and each.verdict == "exactly once"
    assert sum(each.seen for each in report.epochs) > 20 * STEPS
