"""Cluster events from Ray: preemption notices, free capacity for more workers, lost workers and nodes."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import ray
import ray.train
from ray.train.v2.api.callback import UserCallback

from ivr_dist.run.events import Phase, to_json

_CAPACITY_PERIOD_S = 5.0
_NODE_DEATH_TIMEOUT_S = 4.0
_COORDINATOR_TIMEOUT_S = 5.0


class RayCluster:
    """`ClusterEvents` of a Ray Train worker.

    Args:
        most_workers: Largest number of workers of the run.
        use_gpu: Whether each of them has a GPU.
    """

    def __init__(self, most_workers: int, use_gpu: bool) -> None:
        self._kind = "GPU" if use_gpu else "CPU"
        self._grow = False
        context = ray.train.get_context()
        if context.get_world_rank() == 0 and context.get_world_size() < most_workers:
            threading.Thread(target=self._poll_capacity, name="ivr-cluster", daemon=True).start()

    def preempted(self) -> bool:
        """Whether a node of the run has a preemption notice; all ranks must call it equally often."""
        return ray.train.get_preemption_info() is not None

    def may_grow(self) -> bool:
        """Whether the cluster has free resources for another worker, as of the last poll."""
        return self._grow

    def _poll_capacity(self) -> None:
        wait = threading.Event()
        while not wait.wait(_CAPACITY_PERIOD_S):
            try:
                free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
            except ray.exceptions.RayError:
                return
            self._grow = free.get(self._kind, 0.0) >= 1.0


class FailureReporter(UserCallback):
    """Reports lost workers to the driver; a callback in Ray Train's controller, which then restarts the group.

    Args:
        handle: The event channel.
        max_failures: Failures that the run survives (`run.max_failures`); -1 for any number.
        failures: Failures that it has survived before this controller.
    """

    def __init__(self, handle: Any, max_failures: int, failures: int) -> None:
        self._handle = handle
        self._max_failures = max_failures
        self._failures = failures

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Report a failure in one line; the other workers' errors are mostly consequences of the first."""
        self._failures += 1
        lost = ", ".join(str(rank) for rank in sorted(worker_exceptions))
        allowed = "" if self._max_failures < 0 else f" of {self._max_failures}"
        again = self._max_failures < 0 or self._failures <= self._max_failures
        then = "all workers are restarted" if again else "this is one too many"
        text = f"lost worker {lost} (failure {self._failures}{allowed}); {then}"
        self._handle.push.remote([to_json(Phase(text, failures=1))])


class NodeListRefresh(UserCallback):
    """Refreshes the node list of Ray's elastic scaling policy after a failure; a callback in Ray Train's controller.

    The policy's list is up to 20 s old. After the loss of a node it would request workers there, and wait for a timeout
    before it requests fewer.
    """

    def __init__(self) -> None:
        self._nodes = _alive_nodes()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Wait until Ray has noticed whether a node died, and recompute the list."""
        deadline = time.monotonic() + _NODE_DEATH_TIMEOUT_S
        with suppress(ray.exceptions.RayError):
            while self._nodes <= _alive_nodes() and time.monotonic() < deadline:
                time.sleep(0.2)
            self._nodes = _alive_nodes()
            coordinator = start_coordinator()
            if coordinator is not None:
                resources = coordinator.get_reserved_resources.remote("ivr_dist", recompute=True)
                ray.get(resources, timeout=_COORDINATOR_TIMEOUT_S)


def start_coordinator() -> Any:
    """Get or start Ray's autoscaling coordinator, the actor that holds the node list; None if Ray has none any more.

    Ray Train asks it before it starts workers. Started early, it starts beside the controller instead of after it.
    """
    # A private part of Ray: if it has moved, training works without it, but recovers more slowly.
    with suppress(ImportError):
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        return get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]
    return None


def _alive_nodes() -> set[str]:
    """Ids of the nodes of the cluster that are alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
