"""Rank agreement, loss spike detection and the watchdog."""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.display.console import LocalConsole
from ivr_dist.run.paths import STOP_FILE
from ivr_dist.training import rank_agreement as control_module
from ivr_dist.training.loss_spikes import LossSpikeDetector
from ivr_dist.training.rank_agreement import Decision, NoClusterEvents, RankAgreement
from ivr_dist.training.watchdog import EXIT_HUNG, Watchdog

NOTHING = {"saved": False, "unsaved": False, "skipped": 0, "compute_s": 1.0}


class Leaving(NoClusterEvents):
    """A cluster that is about to lose a machine, and has room for another."""

    def preempted(self) -> bool:
        return True

    def may_grow(self) -> bool:
        return True


def agreed(controls: list[RankAgreement], signals: list[torch.Tensor]) -> list[Decision]:
    total = torch.stack(signals).sum(dim=0).tolist()
    return [control.decide(total) for control in controls]


def group(
    tmp_path: Path, world: int, cluster_events: NoClusterEvents | None = None
) -> tuple[list[RankAgreement], LocalConsole]:
    console = LocalConsole()
    return [RankAgreement(str(tmp_path), rank, world, console, cluster_events) for rank in range(world)], console


def test_a_signal_of_one_rank_decides_for_all(tmp_path: Path) -> None:
    controls, console = group(tmp_path, 3)
    quiet = agreed(controls, [control.signals(**NOTHING) for control in controls])
    assert all(decision.stop == "" and not decision.save and not decision.unsaved for decision in quiet)
    console.stop.set()
    signals = [
        control.signals(saved=rank == 0, unsaved=rank == 2, skipped=rank, compute_s=1.0 + rank)
        for rank, control in enumerate(controls)
    ]
    found = agreed(controls, signals)
    assert {(decision.stop, decision.saved, decision.unsaved, decision.skipped) for decision in found} == {
        ("asked", True, 1, 3)
    }


def test_the_slowest_rank_is_named_over_many_steps(tmp_path: Path) -> None:
    controls, _ = group(tmp_path, 3)
    for _step in range(40):
        signals = [
            control.signals(**{**NOTHING, "compute_s": 1.5 if rank == 1 else 1.0})
            for rank, control in enumerate(controls)
        ]
        found = agreed(controls, signals)
    slowest = found[0].slowest()
    assert slowest is not None
    assert slowest[0] == 1
    assert slowest[1] == pytest.approx(0.5)
    assert Decision("", False, False, False, 0, 0, (1.0,)).slowest() is None


def test_the_stop_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "_STOP_FILE_PERIOD_S", 0.01)
    controls, _ = group(tmp_path, 1)
    assert agreed(controls, [controls[0].signals(**NOTHING)])[0].stop == ""
    (tmp_path / STOP_FILE).write_text("")
    deadline = time.monotonic() + 10
    while not agreed(controls, [controls[0].signals(**NOTHING)])[0].stop:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert agreed(controls, [controls[0].signals(**NOTHING)])[0].stop == "stop file"
    controls[0].close()


def test_a_preemption_notice_requests_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "_POLL_CLUSTER_S", 0.0)
    controls, _ = group(tmp_path, 2, Leaving())
    for _look in range(3):
        found = agreed(controls, [control.signals(**NOTHING) for control in controls])
        assert all(decision.poll_cluster and decision.save for decision in found)


def test_nothing_is_looked_at_between_two_looks(tmp_path: Path) -> None:
    controls, _ = group(tmp_path, 2, Leaving())
    found = agreed(controls, [control.signals(**NOTHING) for control in controls])
    assert not any(decision.poll_cluster or decision.save for decision in found)


@given(st.lists(st.floats(0.5, 2.0), min_size=20, max_size=80), st.floats(1.1, 10.0))
def test_a_spike_is_far_above_the_median(losses: list[float], factor: float) -> None:
    spikes = LossSpikeDetector(factor)
    for loss in losses:
        spikes.record(loss)
    middle = sorted(losses[-64:])
    low, high = middle[(len(middle) - 1) // 2], middle[len(middle) // 2]
    assert spikes.check(low * factor * 0.99) == ""
    assert "times the recent median" in spikes.check(high * factor * 1.01)
    assert LossSpikeDetector(None).check(1e30) == ""


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_are_faults_from_the_first_step(loss: float) -> None:
    assert LossSpikeDetector(None).check(loss) == "the loss is not finite"
    assert LossSpikeDetector(2.0).check(1e9) == "", "nothing to compare with yet"


class Bitten:
    def __init__(self, run: Path, least_s: float, factor: float = 5.0) -> None:
        self.codes: list[int] = []
        self.lines: list[str] = []
        self.ended = threading.Event()
        self.dog = Watchdog(
            str(run), "worker-00001", least_s=least_s, factor=factor, notify=self.lines.append, end=self._end
        )

    def _end(self, code: int) -> None:
        self.codes.append(code)
        self.ended.set()


def test_a_worker_without_progress_is_ended_with_its_stacks(tmp_path: Path) -> None:
    bitten = Bitten(tmp_path, 0.2)
    assert bitten.ended.wait(20)
    assert bitten.codes == [EXIT_HUNG]
    assert "worker-00001 made no progress" in bitten.lines[0]
    stacks = (tmp_path / "stacks" / "worker-00001.txt").read_text()
    assert "test_a_worker_without_progress_is_ended_with_its_stacks" in stacks, "the hung thread is in it"


def test_full_disks_do_not_keep_a_hung_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log, its temporary folder and its storage are full."""
    (tmp_path / "stacks").write_text("a file where the folder should be")
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    with suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stderr", full)
        bitten = Bitten(tmp_path, 0.2)
        assert bitten.ended.wait(20) and bitten.codes == [EXIT_HUNG] and len(bitten.lines) == 1
        monkeypatch.undo()


def test_progress_and_slow_steps_keep_the_watchdog_quiet(tmp_path: Path) -> None:
    bitten = Bitten(tmp_path, 0.4)
    for _ in bitten.dog.watched(range(20)):
        time.sleep(0.05)
    assert not bitten.ended.is_set()
    # Steps of 50 ms allow 5 times as much, which is less than the least.
    assert bitten.dog.allowed_s() == 0.4
    bitten.dog.close()
    time.sleep(0.8)
    assert not bitten.ended.is_set()
    slow = Bitten(tmp_path, 0.2)
    slow.dog._recent.extend([10.0] * 9)
    time.sleep(0.5)
    assert not slow.ended.is_set()
    assert slow.dog.allowed_s() == 50.0
    slow.dog.close()


def test_no_watchdog(tmp_path: Path) -> None:
    bitten = Bitten(tmp_path, 0.0)
    time.sleep(0.2)
    assert not bitten.ended.is_set()
