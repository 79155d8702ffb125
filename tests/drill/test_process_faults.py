"""Process faults: killed or stopped processes and full disks; the run ends correctly with the same losses."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ivr_dist.inspection.audit import audit
from ivr_dist.run.attempts import read_attempts
from ivr_dist.run.ledger import read_lineage
from ivr_dist.run.paths import HISTORY
from ivr_dist.run.results import loss_curve
from tests.drill import processes
from tests.drill.runs import Watched, note, overrides, saved, start, train_words
from tests.small_disks import small_disk

pytestmark = [pytest.mark.drill, pytest.mark.xdist_group("ray")]

Curve = list[tuple[int, float]]
KILLS = 12
STOPPED_S = 30.0
KINDS = ("driver", "worker", "controller", "raylet", "gcs")


def environment(run: Path) -> dict[str, str]:
    """Of a command whose processes can be told from those of other tests."""
    return {"OMP_NUM_THREADS": "1", "RUN": str(run)}


def check_end(name: str, run: Path, watched: Watched, reference: Curve, **figures: object) -> None:
    """The run has ended by itself, with nothing lost, nothing twice, nothing left."""
    assert watched.finish() == 0, watched.text()
    assert "internal error" not in watched.text()
    assert "Traceback" not in watched.text()
    assert loss_curve(str(run)) == reference, "bitwise, at the same size"
    report = audit(str(run))
    assert report.ok
    assert processes.left_over(run) == []
    note(name, attempts=report.attempts, difference=0.0, **figures)


def trained(run: Path) -> int:
    """Steps that were trained, as far as the ledger has them."""
    return max((record["step"] for _, _, record in read_lineage(str(run), HISTORY)), default=0)


def hurt(watched: Watched, kind: str, number: signal.Signals, pick: random.Random) -> int:
    """Send a signal to a process of a kind, once there is one."""
    found: list[int] = []

    def there() -> bool:
        found[:] = processes.of_command(watched.process.pid)[kind]
        return bool(found)

    watched.wait_for(there, f"no {kind}")
    pid = pick.choice(found)
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    return pid


def test_random_kills_of_random_processes(corpus: str, reference: Curve, run: Path) -> None:
    words = train_words(overrides(corpus, run, "run.max_failures=-1"))
    watched = start(words, environment(run))
    pick = random.Random(3)
    killed = [*KINDS, *(pick.choice(KINDS) for _ in range(KILLS - len(KINDS)))]
    pick.shuffle(killed)
    for number, kind in enumerate(killed):
        # Most while training, some while workers start.
        reached = trained(run)
        if number % 4 < 3:
            watched.wait_for(lambda reached=reached: trained(run) >= reached + 20, f"before kill {number} of {kind}")  # type: ignore[misc]
        else:
            time.sleep(pick.uniform(2.0, 8.0))
        hurt(watched, kind, signal.SIGKILL, pick)
        if kind == "driver":
            watched.process.wait()
            watched = start(words, environment(run))
    check_end("SIGKILL of random processes", run, watched, reference, killed=killed)


@pytest.mark.parametrize("kind", [*KINDS, "session"])
def test_a_process_that_stops_for_half_a_minute(kind: str, corpus: str, reference: Curve, run: Path) -> None:
    watched = start(train_words(overrides(corpus, run)), environment(run))
    watched.wait_for(saved(run, 60), "before the fault")
    pid = hurt(watched, kind, signal.SIGSTOP, random.Random(0))
    time.sleep(STOPPED_S)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    check_end(f"SIGSTOP of the {kind} for 30 s", run, watched, reference)


@pytest.mark.parametrize("kind", ["session", "channel", "controller", "raylet", "gcs"])
def test_sigkill_of_a_part_of_ray(kind: str, corpus: str, reference: Curve, run: Path) -> None:
    watched = start(train_words(overrides(corpus, run)), environment(run))
    watched.wait_for(saved(run, 60), "before the fault")
    when = time.time()
    hurt(watched, kind, signal.SIGKILL, random.Random(0))
    watched.wait_for(lambda: watched.first("attempt 2", when) is not None, "after the fault")
    lost = next(moment for moment, line in watched.lines if "(failure 1 of 3)" in line)
    again = watched.first("attempt 2", when) or 0.0
    figures = {"detected_s": round(lost - when, 1), "training_again_s": round(again - when, 1)}
    check_end(f"SIGKILL of the {kind}", run, watched, reference, **figures)


@pytest.mark.parametrize("folder", ["audit", "checkpoints", "tensorboard"])
def test_a_disk_that_is_full_for_a_while(folder: str, corpus: str, reference: Curve, tmp_path: Path) -> None:
    """Full after some steps, with room again before too many checkpoints have failed; what was on it is kept."""
    run = tmp_path / "run"
    with small_disk("64m", run / folder):
        watched = start(train_words(overrides(corpus, run, "checkpoint.max_failed=100")), environment(run))
        watched.wait_for(saved(run, 40), "before the fault")
        filler = run / folder / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
        reached = trained(run) if folder != "audit" else 40
        watched.wait_for(step_passed(watched, reached + 100), "while the disk is full")
        filler.unlink()
        check_end(f"full disk under {folder}", run, watched, reference)
        assert len(read_attempts(str(run))) == 1


def step_passed(watched: Watched, step: int) -> Callable[[], bool]:
    """Whether the command has told of so many steps."""

    def look() -> bool:
        told = [line.split()[1] for _, line in watched.lines if line.startswith("step ")]
        steps = [int(word.partition("/")[0]) for word in told if word.partition("/")[0].isdigit()]
        return max(steps, default=0) >= step

    return look
