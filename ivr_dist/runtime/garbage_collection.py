"""When Python looks for garbage: at the same steps on all workers, and not at any moment.

Left to itself the collector runs on each worker whenever that one has made so many objects, and all others wait for it
at their next collective. It also goes through all that torch, DeepSpeed and Ray have loaded, which is never garbage.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 50
"""Steps between two collections."""
_THOROUGH = 20
"""Every so many of them everything is looked at, and not only what is young."""


@contextmanager
def collected_by_step() -> Iterator[Callable[[int], None]]:
    """Inside, nothing is collected but by what it gives: call that with the number of every step."""
    gc.freeze()
    gc.disable()
    try:
        yield _collect
    finally:
        gc.enable()
        gc.unfreeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, nothing is collected: for what makes very many objects and no garbage.

    The collector would go through all objects of the process again and again, since there are so many new ones.
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
