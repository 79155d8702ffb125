"""What Ray knows of the machines of a run, for its workers and for Ray Train's controller."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import ray
import ray.train
from ray.train.v2.api.callback import UserCallback

from ivr_dist.run.events import Phase, to_json

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


class FailureReporter(UserCallback):
    """Tells the driver that workers were lost and that Ray starts them again; runs in Ray Train's controller.

    Args:
        handle: The channel to the driver.
        max_failures: How many failures the run survives; -1 for any number.
        failures: Those it has survived before this controller.
    """

    def __init__(self, handle: Any, max_failures: int, failures: int) -> None:
        self._handle = handle
        self._max_failures = max_failures
        self._failures = failures

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """One line for one failure; what all lost workers say is mostly that one of them is gone."""
        self._failures += 1
        lost = ", ".join(str(rank) for rank in sorted(worker_exceptions))
        allowed = "" if self._max_failures < 0 else f" of {self._max_failures}"
        again = self._max_failures < 0 or self._failures <= self._max_failures
        then = "all workers are started again" if again else "this is too many"
        text = f"lost worker {lost} (failure {self._failures}{allowed}); {then}"
        self._handle.push.remote([to_json(Phase(text, failures=1))])


class NodeListRefresh(UserCallback):
    """Has Ray's elastic policy go by the machines that are there now; runs in Ray Train's controller.

    The policy's list of machines is up to 20 s old. After a loss it would ask for workers on a machine that is gone,
    and wait for them in vain before it asks for fewer.
    """

    def __init__(self) -> None:
        self._machines = _alive()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Wait until Ray has found out whether a machine is gone, and have the list made anew."""
        until = time.monotonic() + _FOUND_DEAD_S
        with suppress(ray.exceptions.RayError):
            while self._machines <= _alive() and time.monotonic() < until:
                time.sleep(0.2)
            self._machines = _alive()
            coordinator = start_coordinator()
            if coordinator is not None:
                ray.get(coordinator.get_reserved_resources.remote("ivr_dist", recompute=True), timeout=_ANSWER_S)


def start_coordinator() -> Any:
    """The actor that knows which machines there are, started if there is none yet; None if Ray has it no more.

    Ray Train asks it before it starts workers. Begun early, it starts beside the controller instead of after it.
    """
    # A private part of Ray: where it has moved, all goes well without, only later.
    with suppress(ImportError):
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        return get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]
    return None


def _alive() -> set[str]:
    """Ids of the machines of the cluster."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
