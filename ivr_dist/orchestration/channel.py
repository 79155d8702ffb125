"""Event channel between the Ray workers of a run and its driver: an actor that holds events and the stop request.

Ray's log forwarding prefixes, de-duplicates and delays lines, and works in one direction only. The actor carries events
to the driver in order, passes a stop request to the workers, and keeps the first error that must end the run, which Ray
would otherwise retry or bury in a traceback (decision 002).
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ivr_dist.errors import IvrError
from ivr_dist.run.events import Event, to_json

_PERIOD_S = 0.5


# decision 002
class _Channel:
    """State of the actor; there is one for each run, and it reserves no CPU."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque()
        self._stop = False
        self._fatal: IvrError | None = None

    def push(self, events: list[dict[str, Any]]) -> bool:
        """Worker side: append events as JSON values; returns whether to stop."""
        self._events.extend(events)
        return self._stop

    def fail(self, error: IvrError) -> None:
        """Worker side: record the error that ends the run without a retry."""
        self._fatal = self._fatal or error

    def pull(self, stop: bool) -> tuple[list[dict[str, Any]], IvrError | None]:
        """Driver side: fetch new events and the fatal error, and pass a stop request on."""
        self._stop = self._stop or stop
        events = list(self._events)
        self._events.clear()
        return events, self._fatal


def create() -> Any:
    """Start a channel on the node of the Ray process, which owns it; returns a handle that can be sent to workers."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(_Channel).options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote()


class ChannelConsole:
    """The worker's end of a channel: a `Console` whose thread sends events and fetches the stop flag twice a second."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._stop = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ivr-channel", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        """Queue one event for the driver."""
        with self._lock:
            self._events.append(event)

    def stop_requested(self) -> bool:
        """Whether the driver requested a stop, as of the last exchange."""
        return self._stop

    def fail(self, error: IvrError) -> None:
        """Report the error that must end the run; returns once the channel has stored it."""
        self._exchange()
        ray.get(self._handle.fail.remote(error))

    def close(self) -> None:
        """Send the remaining events and stop the thread."""
        self._closed.set()
        self._thread.join()
        self._exchange()

    def _run(self) -> None:
        while not self._closed.wait(_PERIOD_S):
            try:
                self._exchange()
            except ray.exceptions.RayError:
                # The Ray process has died, and Ray is about to end this worker too.
                return

    def _exchange(self) -> None:
        with self._lock:
            events, self._events = self._events, []
        self._stop = bool(ray.get(self._handle.push.remote([to_json(event) for event in events])))
