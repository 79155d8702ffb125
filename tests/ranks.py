"""Run a function on several gloo ranks, in processes of their own."""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(function: Callable[..., None], world: int, *args: Any) -> None:
    """Call `function(rank, world, *args)` on `world` ranks of one process group; raises what a rank raised.

    Spawning costs seconds (each process imports torch), so a test puts many cases into one call.
    """
    with tempfile.TemporaryDirectory(prefix="ivr-ranks-") as scratch:
        mp.spawn(_run, (world, str(Path(scratch) / "store"), function, args), nprocs=world)


def _run(rank: int, world: int, store: str, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    faulthandler.enable()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        function(rank, world, *args)
    finally:
        dist.destroy_process_group()
    # The work is done and nothing raised. Interpreter shutdown is skipped: twice a rank aborted there ("terminate
    # called without an active exception"), which happens when a library's native thread asks for the GIL by then.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
