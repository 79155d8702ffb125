"""Runs Python's garbage collector at the same steps on every rank (decision 025).

By default the collector runs on each worker at a different time, and all other workers wait for it at the next
collective. It also scans everything that torch, DeepSpeed and Ray have loaded, which is never garbage.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 50
"""Steps between collections."""
_THOROUGH = 20
"""Collections between two full ones; the others collect the young generations only."""


@contextmanager
def collected_by_step() -> Iterator[Callable[[int], None]]:
    """Context with automatic collection off; yields a function to call with each step's number, which collects."""
    gc.freeze()
    gc.disable()
    try:
        yield _collect
    finally:
        gc.enable()
        gc.unfreeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """Context with automatic collection off, for code that creates very many objects and no garbage.

    The number of new objects would otherwise trigger full scans of all objects of the process again and again.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _collect(step: int) -> None:
    if step % EVERY == 0:
        gc.collect(1 if step // EVERY % _THOROUGH else 2)
