"""Collectives of torch.distributed; each also works with one process and no process group."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ivr_dist.common.library_errors import describe
from ivr_dist.errors import IvrError, WorkerError
from ivr_dist.runtime import device

T = TypeVar("T")

logger = logging.getLogger(__name__)

_TIMEOUT_S = 1800.0
"""The default of PyTorch for gloo, and of Ray."""


def timeout_s(hang_after_s: float = 0.0) -> float:
    """Timeout of a collective, in seconds.

    Args:
        hang_after_s: Seconds after which the watchdog ends a worker. The watchdog must come first, since it records
            what the worker waited for.
    """
    return max(_TIMEOUT_S, 2 * hang_after_s)


@contextmanager
def group(store: str, rank: int, world: int, hang_after_s: float = 0.0) -> Iterator[None]:
    """Join a process group of processes on this machine, and leave it at the end; every rank must enter it.

    Args:
        store: Path of a file that does not exist yet, the same for all ranks, as their rendezvous.
        rank: This process's number, 0..world-1.
        world: Number of processes.
        hang_after_s: As for `timeout_s`.
    """
    dist.init_process_group(
        device.backend(),
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=timeout_s(hang_after_s)),
        device_id=device.bound_device(rank, world),
    )
    logger.debug("joined the process group: rank %d of %d, backend %s", rank, world, device.backend())
    try:
        yield
    finally:
        _destroy()


def _destroy() -> None:
    """Destroy the default process group and every group made from it, those of DeepSpeed included."""
    # DeepSpeed caches its groups for the life of the process. Its own function also drops these; with PyTorch's alone
    # the next engine in this process would be given groups that no longer exist.
    comm = sys.modules.get("deepspeed.comm")
    (dist if comm is None or not comm.is_initialized() else comm).destroy_process_group()


def is_distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


class _AllReduceSum(torch.autograd.Function):
    """All-reduce sum; its gradient is the all-reduce sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Differentiable sum of `tensor` over the ranks; every rank must call it in the same order.

    Each rank that computes a loss from the result adds to the gradient. The gradient of a loss that all ranks compute
    identically is thus multiplied by the world size (section 3b.1 of docs/method.md describes the correction).
    """
    if world_size() == 1:
        return tensor
    result: Tensor = _AllReduceSum.apply(tensor)  # type: ignore[no-untyped-call]
    return result


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a host tensor over the ranks, without a gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def broadcast(value: T) -> T:
    """Broadcast a picklable value from rank 0 to every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_rank_zero(work: Callable[[], T]) -> T:
    """Call `work` on rank 0 and return its result on every rank; an exception is raised on every rank."""
    result: T | None = None
    error: Exception | None = None
    if rank() == 0:
        try:
            result = work()
        except Exception as caught:  # raised again by raise_together, on all ranks
            error = caught
    raise_together(error)
    return broadcast(result)  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """All-gather a picklable value: the values of all ranks, in rank order."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, value)
    return box


def raise_together(error: Exception | None) -> None:
    """Raise on every rank if any rank has an error, so that no rank deadlocks in a later collective.

    A rank with an error raises its own; the others raise a `WorkerError` with the text of the first.
    """
    messages = gather(None if error is None else describe(error))
    if error is not None:
        raise error
    for other, text in enumerate(messages):
        if text is not None:
            raise WorkerError(f"worker {other} failed: {text}")


def is_explained(error: BaseException) -> bool:
    """Whether an error is meant for the user and would recur on another attempt, unlike the loss of a worker."""
    return isinstance(error, IvrError) and not isinstance(error, WorkerError)


def run_on_all_ranks(work: Callable[[], T]) -> T:
    """Call `work` on every rank and return its result; if it raises an `IvrError` on any rank, every rank raises."""
    error: IvrError | None = None
    results: list[T] = []
    try:
        results.append(work())
    except IvrError as caught:  # raised again by raise_together, on all ranks
        error = caught
    raise_together(error)
    return results[0]
