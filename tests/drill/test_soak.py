"""Soak test: memory, threads and files do not grow over five thousand steps."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ivr_dist.inspection.audit import audit
from tests.drill import processes
from tests.drill.runs import Watched, note, overrides, start, train_words

pytestmark = [pytest.mark.drill, pytest.mark.xdist_group("ray")]

STEPS = 5000
LIMIT_S = 1800.0
PERIOD_S = 2.0


class Meter:
    """Takes the size of all processes of a run every few seconds."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._closed = threading.Event()
        self.seen: list[dict[str, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop measuring."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(PERIOD_S):
            try:
                self.seen.append(self._look())
            except OSError:
                continue  # a process has just ended

    def _look(self) -> dict[str, float]:
        found = processes.of_command(self._watched.process.pid)
        ours = found["worker"] + found["driver"] + found["session"]
        everything = [pid for pids in found.values() for pid in pids]
        folders = Path(tempfile.gettempdir()).glob("ivr-*")
        return {
            "time": time.time(),
            "workers' memory, MB": sum(map(processes.memory, found["worker"])) / 1e6,
            "driver's memory, MB": sum(map(processes.memory, found["driver"] + found["session"])) / 1e6,
            "all memory, MB": sum(map(processes.memory, everything)) / 1e6,
            "open files": sum(map(processes.descriptors, ours)),
            "threads": sum(map(processes.threads, ours)),
            "temporary files, MB": sum(_size(folder) for folder in folders) / 1e6,
        }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# By how much each may be higher at the end than after the first quarter, at most.
LIMITS = {
    "workers' memory, MB": 40.0,
    "driver's memory, MB": 20.0,
    "all memory, MB": 150.0,
    "open files": 4.0,
    "threads": 2.0,
    "temporary files, MB": 25.0,
}


def test_nothing_grows(corpus: str, run: Path) -> None:
    given = overrides(corpus, run, "model.hidden=16", f"train.max_steps={STEPS}", "checkpoint.every=100steps")
    watched = start(train_words(given), {"OMP_NUM_THREADS": "1"})
    watched.wait_for(lambda: watched.first("step ", 0.0) is not None, "before the first step")
    meter = Meter(watched)
    deadline = time.monotonic() + LIMIT_S
    while watched.process.poll() is None and time.monotonic() < deadline:
        if any(line.startswith(f"step {STEPS}/") for _, line in watched.lines[-20:]):
            break
        time.sleep(0.2)
    meter.close()
    assert watched.finish() == 0, watched.text()
    assert audit(str(run)).ok
    half = len(meter.seen) // 4
    grown = {}
    for what in LIMITS:
        values = [look[what] for look in meter.seen]
        early = statistics.median(values[half : half + max(half // 2, 3)])
        late = statistics.median(values[-max(half // 2, 3) :])
        slope = float(np.polyfit([look["time"] for look in meter.seen[half:]], values[half:], 1)[0]) * 3600
        grown[what] = late - early
        note(f"soak: {what}", early=round(early, 1), late=round(late, 1), an_hour=round(slope, 1))
    told = [line for _, line in watched.lines if line.startswith("step ") and "samples/s" in line]
    rates = [float(line.partition(" samples/s")[0].split()[-1].replace(",", "")) for line in told]
    quarter = len(rates) // 4
    early_rate, late_rate = statistics.median(rates[quarter : 2 * quarter]), statistics.median(rates[-quarter:])
    note("soak: samples a second", early=round(early_rate), late=round(late_rate))
    # Steps may not become slower; a machine that drifts does more than a real fault would take long to do.
    assert late_rate >= 0.7 * early_rate
    assert {what: value for what, value in grown.items() if value > LIMITS[what]} == {}
