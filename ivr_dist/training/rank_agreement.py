"""What may interrupt training: wishes gathered on each rank, agreed on by all in the collective that opens each step.

A rank must never act on what it alone knows, since the others would wait for it. So every rank adds its wishes to the
one small all-reduce that each step has anyway, and all read the same verdict from the sum.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ivr_dist import storage
from ivr_dist.errors import IvrError
from ivr_dist.run.events import Console
from ivr_dist.run.paths import RunPaths

_LOOK_S = 1.0
_TICK_S = 5.0
_WEIGHT = 0.05
"""Of the newest step in the average over the last ones."""
_FIELDS = ("asked", "stop_file", "save", "tick", "saved", "unsaved", "skipped")

Stop = Literal["", "asked", "stop file"]


class ClusterEvents(Protocol):
    """What the machines around a worker are about to do."""

    def preempted(self) -> bool:
        """Whether a machine of the run has been told to go; a collective call, made every few seconds."""

    def may_grow(self) -> bool:
        """Whether the run may soon be restarted on more workers; asked on rank 0, must not block for long."""


class NoClusterEvents:
    """Surroundings that never change."""

    def preempted(self) -> bool:
        """Never."""
        return False

    def may_grow(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class Decision:
    """What all ranks do next."""

    stop: Stop
    """Why the run ends after a checkpoint; empty if it goes on."""
    save: bool
    """Whether a checkpoint is written now, outside of its turn."""
    tick: bool
    """Whether all ranks look at their surroundings now."""
    saved: bool
    """Whether a checkpoint has become complete."""
    unsaved: int
    """Ranks that could not write their part of a checkpoint."""
    skipped: int
    """Samples of the global batch that could not be read."""
    compute_s: tuple[float, ...]
    """By rank: seconds of a step that it spends on its own data and forward passes, of late."""

    def slowest(self) -> tuple[int, float] | None:
        """The rank that took longest, and how much longer than the median rank, 0.1 for a tenth; None for one rank."""
        if len(self.compute_s) < 2 or min(self.compute_s) <= 0:
            return None
        rank = max(range(len(self.compute_s)), key=self.compute_s.__getitem__)
        middle = sorted(self.compute_s)[(len(self.compute_s) - 1) // 2]
        return rank, self.compute_s[rank] / middle - 1.0


class RankAgreement:
    """One rank's end.

    Args:
        run_url: The run's directory.
        rank: This rank.
        world: Number of ranks.
        console: Tells whether the user wants to stop; asked on rank 0 only.
        cluster_events: What is known of the machines.

    Close it when training ends.
    """

    def __init__(
        self, run_url: str, rank: int, world: int, console: Console, cluster_events: ClusterEvents | None = None
    ) -> None:
        self._rank = rank
        self._world = world
        self._console = console
        self._surroundings = cluster_events or NoClusterEvents()
        self._stop_url = RunPaths(run_url).stop_file
        self._stop_file = False
        self._ticked = time.monotonic()
        self._leaving = False
        self._own_s = [0.0] * world
        self._closed = threading.Event()
        if rank == 0:
            threading.Thread(target=self._look, name="ivr-control", daemon=True).start()

    def close(self) -> None:
        """Stop looking for the stop file."""
        self._closed.set()

    def signals(self, *, saved: bool, unsaved: bool, skipped: int, compute_s: float) -> Tensor:
        """This rank's share of the sum that `decide` reads: [number of wishes + world]."""
        tick = self._rank == 0 and time.monotonic() - self._ticked >= _TICK_S
        found = {
            "asked": self._rank == 0 and self._console.stop_requested(),
            "stop_file": self._stop_file,
            "save": tick and (self._leaving or self._surroundings.may_grow()),
            "tick": tick,
            "saved": saved and self._rank == 0,
            "unsaved": unsaved,
            "skipped": skipped,
        }
        seconds = [compute_s if rank == self._rank else 0.0 for rank in range(self._world)]
        return torch.tensor([float(found[name]) for name in _FIELDS] + seconds)

    def decide(self, total: Sequence[float]) -> Decision:
        """What the sum over all ranks means; a collective call when it says that it is time to look around."""
        value = dict(zip(_FIELDS, total, strict=False))
        save = value["save"] > 0
        if value["tick"]:
            self._ticked = time.monotonic()
            noticed = self._surroundings.preempted()
            # At once, and again at every tick until the machine is gone.
            save = save or (noticed and not self._leaving)
            self._leaving = noticed
        return Decision(
            stop="asked" if value["asked"] else "stop file" if value["stop_file"] else "",
            save=save,
            tick=bool(value["tick"]),
            saved=bool(value["saved"]),
            unsaved=round(value["unsaved"]),
            skipped=round(value["skipped"]),
            compute_s=self._smoothed(total[len(_FIELDS) :]),
        )

    def _smoothed(self, seconds: Sequence[float]) -> tuple[float, ...]:
        """Over the last steps: any worker is slow at times."""
        pairs = zip(self._own_s, seconds, strict=True)
        self._own_s = [now if old == 0.0 else old + _WEIGHT * (now - old) for old, now in pairs]
        return tuple(self._own_s)

    @property
    def size(self) -> int:
        """Numbers in `signals`."""
        return len(_FIELDS) + self._world

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_S):
            try:
                self._stop_file = self._stop_file or storage.exists(self._stop_url)
            except IvrError:
                # Storage that fails for long is noticed by whoever needs it; here the next look may succeed.
                continue
