"""Contestants measured in turns, many short ones, each in a process of its own.

In turns, because what a machine gives changes from minute to minute, and should change for all alike. Of their own,
because the allocator's state belongs to a process: in a shared one, a model that frees large buffers makes those of the
others cheap. A turn begins with steps that do not count, since some machines take memory from a process that waits.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from contestants import Contestant, made
from torch import Tensor

from ivr_dist.runtime import device

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_TURNS = 8
_SIZE = 1024
_WARM_UP_STEPS = 3
"""Until all is compiled and the allocator has found its blocks."""


@dataclass(frozen=True)
class Setting:
    """What all contestants have in common."""

    dtype: str
    threads: int
    clock: str
    seconds: float
    """Of one turn of one contestant."""


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
    _calls: Connection = field(init=False)
    _process: BaseProcess = field(init=False)

    def start(self) -> None:
        """Begin the process, and wait until it has taken its first steps."""
        context = multiprocessing.get_context("spawn")
        self._calls, theirs = context.Pipe()
        given = (theirs, self.name, self.backend, self.lengths, self.setting)
        # A daemon, so that the others do not wait for ever for their next turn when one of them fails.
        self._process = context.Process(target=_answer, args=given, daemon=True)
        self._process.start()
        theirs.close()
        self.flops = self._received()

    def turn(self) -> None:
        """Measure for a while more."""
        steps, products, self.peak = self._received(asked=True)
        self.products += products
        for mode, found in steps.items():
            self.steps.setdefault(mode, []).extend(found)

    def _received(self, asked: bool = False) -> Any:
        """What the process says next, once it was asked for a turn if need be; ends the race if it is no more."""
        try:
            if asked:
                self._calls.send(True)
            return self._calls.recv()
        except (EOFError, OSError):
            self._process.join()
            why = f"exit code {self._process.exitcode}; what it said stands above"
            raise SystemExit(f"{self.name}: its process ended, {why}") from None

    def stop(self) -> None:
        """End the process."""
        self._calls.send(False)
        self._process.join()

    def seconds(self, mode: str = "whole") -> float:
        """Median of a step."""
        return statistics.median(sum(parts.values()) for parts in self.steps[mode])

    def share(self, part: str) -> float:
        """A part's share of the step, by medians."""
        return statistics.median(parts[part] for parts in self.steps["whole"]) / self.seconds()


def race(racers: Sequence[Racer]) -> float:
    """Measure all of them; the rate of the matrix product over the whole race, in operations a second."""
    for racer in racers:
        _say(f"first steps of {racer.name}")
        racer.start()
    for number in range(_TURNS):
        for racer in racers:
            _say(f"turn {number + 1} of {_TURNS}: {racer.name}")
            racer.turn()
    for racer in racers:
        racer.stop()
    _say("")
    return 2.0 * _SIZE**3 / statistics.median(seconds for racer in racers for seconds in racer.products)


def _say(what: str) -> None:
    """Progress, on a line of a terminal that the next word replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def _answer(calls: Connection, name: str, backend: str, lengths: Tensor, setting: Setting) -> None:
    """What a contestant's process does: operations of a step, then the figures of a turn each time it is asked."""
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
    for _ in range(_WARM_UP_STEPS):
        for mode in contestant.modes:
            contestant.step(mode)
    calls.send(contestant.flops())
    while _asked(calls):
        calls.send((*_turn(contestant, product, setting.seconds), _memory("VmHWM") - before))


def _asked(calls: Connection) -> bool:
    """Waits for the next turn; false if there is none, or nobody any more who could ask."""
    try:
        return bool(calls.recv())
    except EOFError:
        return False


def _turn(
    contestant: Contestant, product: Callable[[], float], seconds: float
) -> tuple[dict[str, list[Mapping[str, float]]], list[float]]:
    steps: dict[str, list[Mapping[str, float]]] = {}
    products: list[float] = []
    for mode in contestant.modes:
        # Not counted: what the allocator has at hand is from steps of another kind.
        contestant.step(mode)
        found = steps[mode] = []
        started = time.monotonic()
        while not found or time.monotonic() - started < seconds / len(contestant.modes):
            found.append(contestant.step(mode))
        products.append(product())
    return steps, products


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
