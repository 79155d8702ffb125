"""What Ray knows of the machines of a run: whether one of them must go, and whether there are more of them now."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import ray
import ray.train
from ray.train.v2.api.callback import UserCallback

_LOOK_S = 5.0
_FOUND_DEAD_S = 4.0
_ANSWER_S = 5.0


class RayCluster:
    """One worker's view; made in a Ray Train worker.

    Args:
        most_workers: Workers that the run asks for.
        use_gpu: Whether each of them has a GPU.
    """

    def __init__(self, most_workers: int, use_gpu: bool) -> None:
        self._kind = "GPU" if use_gpu else "CPU"
        self._grow = False
        context = ray.train.get_context()
        if context.get_world_rank() == 0 and context.get_world_size() < most_workers:
            threading.Thread(target=self._look, name="ivr-cluster", daemon=True).start()

    def preempted(self) -> bool:
        """Whether a machine of the run has been told to go; all ranks must call it equally often."""
        return ray.train.get_preemption_info() is not None

    def may_grow(self) -> bool:
        """Whether there is room for another worker, as of the last look."""
        return self._grow

    def _look(self) -> None:
        wait = threading.Event()
        while not wait.wait(_LOOK_S):
            try:
                free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
            except ray.exceptions.RayError:
                return
            self._grow = free.get(self._kind, 0.0) >= 1.0


class FreshMachines(UserCallback):
    """Has Ray's elastic policy go by the machines that are there now; runs in Ray Train's controller.

    The policy's list of machines is up to 20 s old. After a loss it would ask for workers on a machine that is gone,
    and wait for them in vain before it asks for fewer.
    """

    def __init__(self) -> None:
        self._machines = _alive()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Wait until Ray has found out whether a machine is gone, and have the list made anew."""
        # A private part of Ray: where it has moved, the policy finds out by itself, only later.
        with suppress(ImportError, AttributeError, TypeError, ray.exceptions.RayError):
            from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
                get_or_create_autoscaling_coordinator,
            )

            until = time.monotonic() + _FOUND_DEAD_S
            while self._machines <= _alive() and time.monotonic() < until:
                time.sleep(0.2)
            self._machines = _alive()
            coordinator = get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]
            ray.get(coordinator.get_reserved_resources.remote("ivr_dist", recompute=True), timeout=_ANSWER_S)


def _alive() -> set[str]:
    """Ids of the machines of the cluster."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
