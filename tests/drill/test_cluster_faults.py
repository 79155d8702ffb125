"""Cluster faults: killed workers, drivers and hosts; the run recovers with unchanged losses."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ivr_dist.inspection.audit import audit
from ivr_dist.run.attempts import read_attempts
from ivr_dist.run.heartbeat import read_heartbeats
from ivr_dist.run.results import loss_curve
from tests.drill.cluster import Cluster
from tests.drill.runs import clean, conclude, note, overrides, saved, start, train_words

pytestmark = [pytest.mark.drill, pytest.mark.xdist_group("ray")]

Curve = list[tuple[int, float]]
SINGLE = {"OMP_NUM_THREADS": "1"}
SOME_STEPS_S = 0.4
"""After a checkpoint: half of the steps until the next one."""


def pid_of(run: Path, rank: int) -> int:
    return int(read_attempts(str(run))[-1].workers[rank].rpartition(":")[2])


def host_of(run: Path, rank: int) -> int:
    return int(read_attempts(str(run))[-1].workers[rank].partition(":")[0].removeprefix("node"))


def test_sigkill_of_a_worker(corpus: str, reference: Curve, run: Path) -> None:
    watched = start(train_words(overrides(corpus, run)), SINGLE)
    watched.wait_for(saved(run, 60), "before the fault")
    time.sleep(SOME_STEPS_S)
    hurt = time.time()
    os.kill(pid_of(run, 1), signal.SIGKILL)
    conclude("SIGKILL of a worker", run, watched, hurt, reference)


def test_sigkill_right_after_a_checkpoint(corpus: str, reference: Curve, run: Path) -> None:
    """Where Ray would lose a checkpoint that is written and not registered yet."""
    watched = start(train_words(overrides(corpus, run)), SINGLE)
    watched.wait_for(saved(run, 60), "before the fault")
    hurt = time.time()
    for rank in (0, 1):
        os.kill(pid_of(run, rank), signal.SIGKILL)
    conclude("SIGKILL of all workers right after a checkpoint", run, watched, hurt, reference)
    assert read_attempts(str(run))[1].step >= 60


def test_hung_worker(corpus: str, reference: Curve, run: Path) -> None:
    watched = start(train_words(overrides(corpus, run, "run.hang_after_s=5")), SINGLE)
    watched.wait_for(saved(run, 60), "before the fault")
    time.sleep(SOME_STEPS_S)
    hurt = time.time()
    os.kill(pid_of(run, 1), signal.SIGSTOP)
    conclude("hung worker (SIGSTOP, hang_after_s=5)", run, watched, hurt, reference)
    stacks = list((run / "stacks").glob("worker-00000-pid-*.txt"))
    assert stacks
    assert "_agree" in stacks[0].read_text() or "step.py" in stacks[0].read_text()
    assert (run / "stacks" / "gloo" / "worker-00000").exists(), "the trace of its collectives"


def test_sigkill_of_the_driver(corpus: str, reference: Curve, run: Path) -> None:
    """Its cluster dies with it; the same command continues. A second driver beside a living one is refused."""
    words = train_words(overrides(corpus, run))
    watched = start(words, SINGLE)
    watched.wait_for(saved(run, 60), "before the fault")
    time.sleep(SOME_STEPS_S)
    second = subprocess.run(words, env=clean(SINGLE), capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "is running on this run" in second.stderr
    hurt = time.time()
    watched.process.kill()
    watched.process.wait()
    again = start(words, SINGLE)
    conclude("SIGKILL of the driver, the same command again", run, again, hurt, reference, earlier=watched)


def test_power_cut_of_a_host(corpus: str, reference: Curve, run: Path, cluster: Cluster) -> None:
    watched = start(cluster.words(train_words(overrides(corpus, run))), cluster.environment)
    watched.wait_for(saved(run, 60), "before the fault")
    time.sleep(SOME_STEPS_S)
    hurt = time.time()
    cluster.hosts.cut_power(host_of(run, 1))
    conclude("power cut of a host", run, watched, hurt, reference)


def test_cable_cut_of_a_host(corpus: str, reference: Curve, run: Path, cluster: Cluster) -> None:
    watched = start(cluster.words(train_words(overrides(corpus, run))), cluster.environment)
    watched.wait_for(saved(run, 60), "before the fault")
    time.sleep(SOME_STEPS_S)
    hurt = time.time()
    cluster.hosts.cable(host_of(run, 1), plugged=False)
    conclude("cable cut of a host", run, watched, hurt, reference)


def test_sigkill_of_a_raylet(corpus: str, reference: Curve, run: Path, cluster: Cluster) -> None:
    watched = start(cluster.words(train_words(overrides(corpus, run))), cluster.environment)
    watched.wait_for(saved(run, 60), "before the fault")
    time.sleep(SOME_STEPS_S)
    hurt = time.time()
    host = host_of(run, 1)
    kill = 'for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = raylet ] && kill -9 ${p#/proc/}; done'
    subprocess.run(cluster.hosts.command(host, ["bash", "-c", kill]), check=False)
    conclude("SIGKILL of a raylet", run, watched, hurt, reference)


def test_preemption_notice_of_a_host(corpus: str, reference: Curve, run: Path, cluster: Cluster) -> None:
    """A checkpoint is written when the notice comes, besides the one that is due at the end only."""
    given = overrides(corpus, run, "checkpoint.every=1000steps", "train.max_steps=400")
    watched = start(cluster.words(train_words(given)), cluster.environment)
    watched.wait_for(lambda: int(read_heartbeats(str(run)).get(1, {}).get("step", 0)) > 60, "before the notice")
    hurt = time.time()
    cluster.drain(host_of(run, 1), seconds=15)
    conclude("preemption notice of 15 s", run, watched, hurt, reference)
    assert read_attempts(str(run))[1].step > 60


def test_elastic_run_shrinks_and_grows(corpus: str, reference: Curve, run: Path, cluster: Cluster) -> None:
    """From three workers to two by a power cut, and to three again when the host is back."""
    given = overrides(corpus, run, "run.num_workers=[1,3]", "run.resize_s=5", "train.max_steps=400")
    watched = start(cluster.words(train_words(given)), cluster.environment)
    watched.wait_for(saved(run, 60), "before the fault")
    time.sleep(SOME_STEPS_S)
    hurt = time.time()
    host = host_of(run, 1)
    cluster.hosts.cut_power(host)
    watched.wait_for(lambda: len(read_attempts(str(run))) >= 2, "after the cut")
    watched.wait_for(
        lambda: (read_heartbeats(str(run)).get(len(read_attempts(str(run)))) or {}).get("loss") is not None, ""
    )
    cluster.add(host)
    conclude("elastic: host lost, host back", run, watched, hurt, reference)
    worlds = [attempt.world for attempt in read_attempts(str(run))]
    note("elastic: workers of the attempts", worlds=worlds)
    assert worlds[0] == 3
    assert 2 in worlds


@pytest.mark.parametrize("kills", [20])
def test_kills_at_random_moments(corpus: str, alone: Curve, run: Path, kills: int) -> None:
    """A checkpoint every step, so that most kills hit one being written; then the run is the one without faults."""
    words = train_words(overrides(corpus, run, "run.num_workers=0", "checkpoint.every=1step"))
    pick = random.Random(0)
    killed = 0
    while killed < kills:
        watched = start(words)
        before = len(read_attempts(str(run)))
        watched.wait_for(lambda before=before: len(read_attempts(str(run))) > before, "starting")  # type: ignore[misc]
        time.sleep(pick.uniform(0.1, 0.8))
        if watched.process.poll() is None:
            watched.process.kill()
            killed += 1
        watched.process.wait()
    watched = start(words)
    assert watched.finish() == 0, watched.text()
    assert loss_curve(str(run)) == alone, "bitwise, at the same size"
    report = audit(str(run))
    assert report.ok
    note("kills at random moments of writing checkpoints", kills=killed, attempts=report.attempts)


def test_goodput_of_five_minutes_with_three_kills(corpus: str, run: Path) -> None:
    given = overrides(corpus, run, "train.max_steps=1000000", "checkpoint.every=50steps", "run.max_failures=5")
    watched = start(train_words(given), SINGLE)
    for after in (60.0, 140.0, 220.0):
        watched.wait_for(lambda after=after: time.time() - watched.started > after, "before a kill")  # type: ignore[misc]
        os.kill(pid_of(run, 1), signal.SIGKILL)
    watched.wait_for(lambda: time.time() - watched.started > 300.0, "until the end")
    watched.process.send_signal(signal.SIGINT)
    assert watched.finish() == 130
    wall = time.time() - watched.started
    from ivr_dist.inspection.status import status

    parts = status(str(run)).goodput
    total = sum(parts.values())
    note("five minutes with three kills", wall_s=round(wall, 1), total_s=round(total, 1), parts=parts)
    assert audit(str(run)).ok
    # The driver's own start and end, before and after the workers, are no part of the run.
    assert abs(total - wall) <= 0.02 * wall
