"""Number of CPU threads for training in one process: as many as there are idle processors.

Threads that share a processor wait for each other at every operation: on a busy machine two threads are many times
slower than one. Under Ray each worker has one processor, and Ray sets one thread.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_S = 0.3
_NEARLY = 0.3
"""Share of a processor that a thread may lack."""
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class ThreadCount:
    """A number of threads, and the reason for it."""

    threads: int
    why: str


def choose(setting: int | None) -> ThreadCount:
    """Choose the number of threads of this process.

    Args:
        setting: `run.threads`; None: choose by the processors that are idle now.
    """
    allowed = len(os.sched_getaffinity(0))
    if setting is not None:
        return ThreadCount(setting, "run.threads")
    for name in _VARIABLES:
        value = os.environ.get(name, "").partition(",")[0].strip()
        if value.isdigit() and int(value) > 0:
            return ThreadCount(int(value), name)
    before, began = _idle_s(), time.monotonic()
    time.sleep(_SAMPLE_S)
    idle = sum(now - then for then, now in zip(before, _idle_s(), strict=True))
    free = idle / (time.monotonic() - began)
    return from_idle_processors(allowed, free, _quota())


def from_idle_processors(allowed: int, free: float, quota: float | None) -> ThreadCount:
    """Choose the number of threads from measured values.

    Args:
        allowed: Processors that this process may use.
        free: Number of idle ones, a fraction.
        quota: CPU quota of the container, in processors; None: no limit.
    """
    most = min(float(allowed), free, float(allowed) if quota is None else quota)
    threads = max(int(most + _NEARLY), 1)
    limit = "" if quota is None or quota >= allowed else f", a quota of {quota:g}"
    return ThreadCount(
        threads, f"{min(free, allowed):.1f} of {allowed} processors are idle{limit}; run.threads sets it"
    )


def _idle_s() -> list[float]:
    """Idle seconds since boot of each processor this process may use; without /proc, all count as idle."""
    allowed, tick = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
    with suppress(OSError, ValueError, IndexError):
        idle = []
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in allowed:
                idle.append((int(fields[3]) + int(fields[4])) / tick)
        if len(idle) == len(allowed):
            return idle
    return [time.monotonic()] * len(allowed)


def _quota() -> float | None:
    """CPU quota of the control group (cgroup v2 or v1), in processors; None: no limit."""
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup/cpu")
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / int((folder / "cpu.cfs_period_us").read_text())
    return None
