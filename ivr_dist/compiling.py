"""`torch.compile`, as training uses it; nothing is imported of the compiler until a run asks for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

NONE = "none"
"""The backend of what is not compiled."""

F = TypeVar("F", bound=Callable[..., Any])


def prepare(backend: str) -> None:
    """Set up this process before it compiles anything by `backend`."""
    if backend == NONE:
        return
    from torch._functorch import config

    # A compiled backward pass frees what it has read, and refuses to run for SVR's gradient and again for the step.
    config.donated_buffer = False


def compiled(function: F, backend: str) -> F:
    """`function` compiled by a backend of `torch.compile`, or itself for `none`."""
    if backend == NONE:
        return function
    prepare(backend)
    result: F = torch.compile(function, backend=backend)  # type: ignore[assignment]
    return result


def uncompiled(backend: str) -> AbstractContextManager[Any]:
    """Inside, what was compiled by `backend` runs as it was written."""
    return nullcontext() if backend == NONE else torch.compiler.set_stance("force_eager")
