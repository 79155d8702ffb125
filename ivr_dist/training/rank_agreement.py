"""Rank agreement: signals of single ranks are summed in one all-reduce, so all ranks take the same decision.

Signals are a stop request, an unscheduled checkpoint, a failed checkpoint write, unreadable samples. A rank must never
act on local information alone, since the others would wait for it in a collective (a deadlock). So every rank adds its
signals to the one small all-reduce that each step has anyway (decision 008).
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

_STOP_FILE_PERIOD_S = 1.0
_POLL_CLUSTER_S = 5.0
_WEIGHT = 0.05
"""Weight of the newest step in the moving average."""
_FIELDS = ("asked", "stop_file", "save", "poll", "saved", "unsaved", "skipped")

Stop = Literal["", "asked", "stop file"]


class ClusterEvents(Protocol):
    """Cluster events: preemption notices and free capacity."""

    def preempted(self) -> bool:
        """Whether a node of the run will be preempted; a collective call, made every few seconds."""

    def may_grow(self) -> bool:
        """Whether the run may soon be restarted on more workers; called on rank 0, must not block for long."""


class NoClusterEvents:
    """A cluster that never changes."""

    def preempted(self) -> bool:
        """Never."""
        return False

    def may_grow(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class Decision:
    """The decision of one step, equal on all ranks."""

    stop: Stop
    """Why the run ends after a checkpoint; empty if it continues."""
    save: bool
    """Whether to write an unscheduled checkpoint now."""
    poll_cluster: bool
    """Whether all ranks polled the cluster for events."""
    saved: bool
    """Whether a checkpoint has become complete."""
    unsaved: int
    """Ranks that could not write their part of a checkpoint."""
    skipped: int
    """Samples of the global batch that could not be read."""
    compute_s: tuple[float, ...]
    """By rank: seconds of a step spent on its own data and forward passes, smoothed over the last steps."""

    def slowest(self) -> tuple[int, float] | None:
        """Return the slowest rank, and how much longer than the median it takes (0.1 is a tenth); None for one rank."""
        if len(self.compute_s) < 2 or min(self.compute_s) <= 0:
            return None
        rank = max(range(len(self.compute_s)), key=self.compute_s.__getitem__)
        middle = sorted(self.compute_s)[(len(self.compute_s) - 1) // 2]
        return rank, self.compute_s[rank] / middle - 1.0


class RankAgreement:
    """Collects this rank's signals, and decides from the sum over all ranks.

    Args:
        run_url: The run's directory.
        rank: This rank.
        world: Number of ranks.
        console: Source of the user's stop request; read on rank 0 only.
        cluster_events: Preemption notices and free capacity; None for none.

    Close it when training ends.
    """

    def __init__(
        self, run_url: str, rank: int, world: int, console: Console, cluster_events: ClusterEvents | None = None
    ) -> None:
        self._rank = rank
        self._world = world
        self._console = console
        self._cluster_events = cluster_events or NoClusterEvents()
        self._stop_url = RunPaths(run_url).stop_file
        self._stop_file = False
        self._last_poll = time.monotonic()
        self._leaving = False
        self._own_s = [0.0] * world
        self._closed = threading.Event()
        if rank == 0:
            threading.Thread(target=self._poll_stop_file, name="ivr-control", daemon=True).start()

    def close(self) -> None:
        """Stop polling for the stop file."""
        self._closed.set()

    def signals(self, *, saved: bool, unsaved: bool, skipped: int, compute_s: float) -> Tensor:
        """Return this rank's summand of the all-reduce: float32 [number of signals + world]."""
        poll = self._rank == 0 and time.monotonic() - self._last_poll >= _POLL_CLUSTER_S
        signals = {
            "asked": self._rank == 0 and self._console.stop_requested(),
            "stop_file": self._stop_file,
            "save": poll and (self._leaving or self._cluster_events.may_grow()),
            "poll": poll,
            "saved": saved and self._rank == 0,
            "unsaved": unsaved,
            "skipped": skipped,
        }
        seconds = [compute_s if rank == self._rank else 0.0 for rank in range(self._world)]
        return torch.tensor([float(signals[name]) for name in _FIELDS] + seconds)

    def decide(self, total: Sequence[float]) -> Decision:
        """Decide from the sum over all ranks; a collective call if a poll of the cluster is due."""
        value = dict(zip(_FIELDS, total, strict=False))
        save = value["save"] > 0
        if value["poll"]:
            self._last_poll = time.monotonic()
            noticed = self._cluster_events.preempted()
            # At once, and again at every poll until the node is gone.
            save = save or (noticed and not self._leaving)
            self._leaving = noticed
        return Decision(
            stop="asked" if value["asked"] else "stop file" if value["stop_file"] else "",
            save=save,
            poll_cluster=bool(value["poll"]),
            saved=bool(value["saved"]),
            unsaved=round(value["unsaved"]),
            skipped=round(value["skipped"]),
            compute_s=self._smoothed(total[len(_FIELDS) :]),
        )

    def _smoothed(self, seconds: Sequence[float]) -> tuple[float, ...]:
        """Return exponential moving averages, since any worker is slow at times."""
        pairs = zip(self._own_s, seconds, strict=True)
        self._own_s = [now if old == 0.0 else old + _WEIGHT * (now - old) for old, now in pairs]
        return tuple(self._own_s)

    @property
    def size(self) -> int:
        """Numbers in `signals`."""
        return len(_FIELDS) + self._world

    def _poll_stop_file(self) -> None:
        while not self._closed.wait(_STOP_FILE_PERIOD_S):
            try:
                self._stop_file = self._stop_file or storage.exists(self._stop_url)
            except IvrError:
                # A lasting failure of storage surfaces where storage is needed; here the next poll may succeed.
                continue
