"""`torch.compile`, as training uses it; nothing is imported of the compiler until a run asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import unwrap
from types import MethodType
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


@contextmanager
def without_importing_compiler(backend: str) -> Iterator[None]:
    """Inside, libraries leave functions of their own as they were written, where the run compiles nothing.

    Importing the compiler takes three seconds of a processor, at every start of a worker. DeepSpeed compiles parts of
    Muon as soon as it is imported; methods of optimizers import the compiler to tell it not to look at them.
    """
    if backend != NONE:
        yield
        return
    for method in vars(torch.optim.Optimizer).values():
        plain = getattr(method, "__wrapped__", None)
        if plain is not None:
            # Where `torch._compile._disable_dynamo` keeps what it makes of a function.
            setattr(plain, "__dynamo_disable", plain)
    compile_ = torch.compile
    torch.compile = _as_written  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_


def _as_written(function: Any = None, **options: Any) -> Any:
    """In place of `torch.compile`, as a call or a decorator."""
    return (lambda function: function) if function is None else function


def spare_steps(optimizer: Any, backend: str) -> None:
    """Have an optimizer of PyTorch update the weights without importing the compiler, where the run compiles nothing.

    Around its step there is only what tells the compiler, if there is one, to leave it alone, and `no_grad`.
    """
    if backend == NONE and isinstance(optimizer, torch.optim.Adam) and not optimizer.defaults["differentiable"]:
        optimizer.step = MethodType(torch.no_grad()(unwrap(type(optimizer).step)), optimizer)  # type: ignore[method-assign]
