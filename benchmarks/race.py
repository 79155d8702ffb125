"""Contestants measured one after the other, several rounds of each, always in fresh processes of their own.

Of their own, because the allocator's state belongs to a process: in a shared one, a model that frees large buffers
makes those of the others cheap. Fresh, because a process that waits for its turn loses its memory to the system on some
machines.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from contestants import made
from torch import Tensor

from ivr_dist import device

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_ROUNDS = 3
_SIZE = 1024
_WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Setting:
    """What all contestants have in common."""

    dtype: str
    threads: int
    clock: str
    seconds: float
    """Of one round of one contestant."""


@dataclass
class Racer:
    """A contestant and what was measured of it."""

    name: str
    backend: str
    """That compiles it, or `none`."""
    lengths: Tensor
    setting: Setting
    flops: float = 0.0
    """Of one step."""
    steps: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)
    """By mode: seconds of each part of each step."""
    products: list[float] = field(default_factory=list)
    """Seconds of a large matrix product between the steps."""
    peak: float = 0.0
    """MB needed beyond what the process held before the model was built."""

    def round(self) -> None:
        """Measure for a while more."""
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            flops, steps, products, peak = pool.apply(_measure, (self.name, self.backend, self.lengths, self.setting))
        self.flops, self.peak = flops, max(peak, self.peak)
        self.products += products
        for mode, found in steps.items():
            self.steps.setdefault(mode, []).extend(found)

    def seconds(self, mode: str = "whole") -> float:
        """Median of a step."""
        return statistics.median(sum(parts.values()) for parts in self.steps[mode])

    def share(self, part: str) -> float:
        """A part's share of the step, by medians."""
        return statistics.median(parts[part] for parts in self.steps["whole"]) / self.seconds()


def race(racers: Sequence[Racer]) -> float:
    """Measure all of them, in rounds; the rate of the matrix product over the whole race, in operations a second."""
    for _ in range(_ROUNDS):
        for racer in racers:
            racer.round()
    return 2.0 * _SIZE**3 / statistics.median(seconds for racer in racers for seconds in racer.products)


def _measure(
    name: str, backend: str, lengths: Tensor, setting: Setting
) -> tuple[float, dict[str, list[Mapping[str, float]]], list[float], float]:
    if name != "plain":
        device.tune_memory()
    torch.set_num_threads(setting.threads)
    clock, dtype = CLOCKS[setting.clock], getattr(torch, setting.dtype)
    product = _product(dtype, clock)
    product()
    before = _memory("VmRSS")
    # From here on the peak is the model's.
    Path("/proc/self/clear_refs").write_text("5")
    contestant = made(name, lengths, dtype, clock, backend=backend)
    steps: dict[str, list[Mapping[str, float]]] = {mode: [] for mode in contestant.modes}
    products: list[float] = []
    # What does not count: compilation, and the time until the allocator has found its blocks.
    started = time.monotonic()
    for number in itertools.count():
        if number >= _WARM_UP_STEPS and time.monotonic() - started > setting.seconds / 2:
            break
        for mode in steps:
            contestant.step(mode)
    started = time.monotonic()
    while not products or time.monotonic() - started < setting.seconds:
        for mode, found in steps.items():
            found.append(contestant.step(mode))
        products.append(product())
    return contestant.flops(), steps, products, _memory("VmHWM") - before


def _product(dtype: torch.dtype, clock: Callable[[], float]) -> Callable[[], float]:
    """One large matrix product, which tells what the machine reaches."""
    a, b = torch.randn(_SIZE, _SIZE).to(dtype), torch.randn(_SIZE, _SIZE).to(dtype)

    def run() -> float:
        started = clock()
        a @ b
        return clock() - started

    return run


def _memory(name: str) -> float:
    """MB of this process, by a field of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
