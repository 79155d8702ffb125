"""Events of a run: what the training loop emits, and the console that takes them.

The loop emits events, small JSON-able dicts with a `kind`. In this process they are printed at once; from a Ray worker
they travel through `orchestration.channel` to the driver, which prints them with the same function.
"""

from __future__ import annotations

from typing import Any, Protocol

Event = dict[str, Any]


class Console(Protocol):
    """Where the loop's events go, and where its stop request comes from."""

    def emit(self, event: Event) -> None:
        """Pass one event on; never blocks for long."""

    def stop_requested(self) -> bool:
        """Whether the user wants the run to end after a checkpoint."""
