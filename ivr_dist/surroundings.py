"""What Ray knows of the machines of a run: whether one of them must go, and whether there are more of them now."""

from __future__ import annotations

import threading

import ray
import ray.train

_LOOK_S = 5.0


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
