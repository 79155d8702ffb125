"""Process groups of workers with GPUs: one backend for each kind of memory.

NCCL needs GPUs; here gloo stands in for it. What matters is which tensors a group serves, and that is the same.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from ivr_dist.errors import WorkerError
from ivr_dist.runtime import collectives, device
from ivr_dist.training.watchdog import Watchdog
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed


@contextmanager
def default_group(backend: str) -> Iterator[None]:
    """All collectives go by a group of this backend."""
    before = c10d._get_default_group()
    group = dist.new_group(backend=backend)
    c10d._update_default_pg(group)
    try:
        yield
    finally:
        c10d._update_default_pg(before)
        dist.destroy_process_group(group)


def _all_collectives(rank: int, world: int) -> None:
    with default_group(device.backend_with(gpus=True).replace("nccl", "gloo")):
        tensor = torch.tensor([1.0, float(rank)], requires_grad=True)
        assert collectives.sum_over_ranks(tensor).tolist() == [2.0, 1.0]
        total = collectives.all_reduce_sum(tensor)
        total.sum().backward()
        assert total.tolist() == [2.0, 1.0]
        assert tensor.grad is not None and tensor.grad.tolist() == [2.0, 2.0]
        assert collectives.gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
        assert collectives.broadcast(f"from {rank}") == "from 0"
        assert collectives.on_rank_zero(lambda: rank + 7) == 7
        dist.barrier()
        error = ValueError("lost") if rank == 1 else None
        with pytest.raises(ValueError if rank == 1 else WorkerError, match="lost"):
            collectives.raise_together(error)


def _gpus_alone(rank: int, world: int) -> None:
    refused = pytest.raises(RuntimeError, match="No backend type associated with device type cpu")
    with default_group("cuda:gloo"), refused:
        collectives.sum_over_ranks(torch.ones(1))


def _hang(rank: int, world: int, run: str) -> None:
    trace = Path(run) / "stacks" / "gloo" / "worker-00000"
    if rank == 0:
        ended = threading.Event()
        Watchdog(run, "worker-00000-pid-1", least_s=0.3, factor=1.0, notify=print, end=lambda code: ended.set())
        collectives.sum_over_ranks(torch.ones(5))
        assert ended.wait(20)
        last = pickle.loads(trace.read_bytes())["entries"][-1]
        assert (last["profiling_name"], last["input_sizes"]) == ("gloo:all_reduce", [[5]])
        assert {"sum_over_ranks", "_hang"} <= {frame["name"] for frame in last["frames"]}
        assert "sum_over_ranks" in (Path(run) / "stacks" / "worker-00000-pid-1.txt").read_text()
    else:
        until = time.monotonic() + 20
        while not trace.exists() and time.monotonic() < until:
            time.sleep(0.05)
        collectives.sum_over_ranks(torch.ones(5))


def test_a_worker_that_waits_in_a_collective_leaves_its_stacks_and_a_trace(tmp_path: Path) -> None:
    run_ranks(_hang, 2, str(tmp_path))


def test_the_group_of_workers_with_gpus_serves_the_host_too() -> None:
    run_ranks(_all_collectives, 2)


def test_a_group_that_serves_gpus_alone_would_not() -> None:
    """What a group of backend `nccl` is: this is how training on two GPUs ended before its first step."""
    run_ranks(_gpus_alone, 2)
