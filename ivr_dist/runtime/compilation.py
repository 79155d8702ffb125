"""torch.compile; the compiler is not imported unless a run uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import unwrap
from types import MethodType
from typing import Any, TypeVar

import torch

NONE = "none"
"""Backend name for no compilation."""

_GRAPHS = 32

F = TypeVar("F", bound=Callable[..., Any])


def prepare(backend: str) -> None:
    """Configure the compiler of this process; call it before anything is compiled by `backend`."""
    if backend == NONE:
        return
    from torch._dynamo import config as dynamo
    from torch._functorch import config

    # With donated buffers a compiled backward pass can run only once; it runs for SVR's gradient, then for the step.
    config.donated_buffer = False
    # A graph for each combination of modalities that a micro-batch may lack; beyond the limit nothing is compiled.
    dynamo.recompile_limit = max(dynamo.recompile_limit, _GRAPHS)


def compiled(function: F, backend: str) -> F:
    """Compile `function` by a backend of `torch.compile`; for `none`, return it unchanged."""
    if backend == NONE:
        return function
    prepare(backend)
    result: F = torch.compile(function, backend=backend)  # type: ignore[assignment]
    return result


def uncompiled(backend: str) -> AbstractContextManager[Any]:
    """Context in which functions compiled by `backend` run uncompiled (eagerly)."""
    return nullcontext() if backend == NONE else torch.compiler.set_stance("force_eager")


@contextmanager
def without_importing_compiler(backend: str) -> Iterator[None]:
    """Context in which libraries do not import the compiler, unless the run compiles anything.

    Importing the compiler takes three seconds of CPU time at every start of a worker. DeepSpeed compiles parts of Muon
    when it is imported; the methods of optimizers import the compiler in order to be excluded from compilation.
    """
    if backend != NONE:
        yield
        return
    # decision 022
    for method in vars(torch.optim.Optimizer).values():
        plain = getattr(method, "__wrapped__", None)
        if plain is not None:
            # The attribute in which `torch._compile._disable_dynamo` caches the wrapped function.
            setattr(plain, "__dynamo_disable", plain)
    compile_ = torch.compile
    torch.compile = _as_written  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_


def _as_written(function: Any = None, **options: Any) -> Any:
    """Stand-in for `torch.compile`, as a call or a decorator, that compiles nothing."""
    return (lambda function: function) if function is None else function


def spare_steps(optimizer: Any, backend: str) -> None:
    """Unwrap the step of a PyTorch optimizer so that it does not import the compiler, unless the run compiles anything.

    The removed wrappers only exclude the step from compilation; `no_grad` is applied again.
    """
    if backend == NONE and isinstance(optimizer, torch.optim.Adam) and not optimizer.defaults["differentiable"]:
        optimizer.step = MethodType(torch.no_grad()(unwrap(type(optimizer).step)), optimizer)  # type: ignore[method-assign]
