"""Runs a function on several gloo ranks, in separate processes."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ivr_dist.runtime.environment import RECORDER

_MOST_KEPT = 2
"""Ranks of a group that stays for later calls; larger groups would hold gigabytes for a few calls."""


def run_ranks(function: Callable[..., None], world: int, *args: Any) -> None:
    """Call `function(rank, world, *args)` on `world` ranks of one process group; raises what a rank raised.

    A new rank imports torch and DeepSpeed, which takes seconds: small groups stay for later calls, so a function puts
    back what it has replaced. A group of which a rank has failed is ended.
    """
    group = _kept.pop(world, None) or _Group(world)
    try:
        group.run(function, args)
    except BaseException:
        group.end()
        raise
    if world <= _MOST_KEPT:
        _kept[world] = group
    else:
        group.end()


class RankError(Exception):
    """A rank raised, or is gone."""


class _Group:
    def __init__(self, world: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._scratch = tempfile.TemporaryDirectory(prefix="ivr-ranks-")
        self._ranks: dict[Connection, BaseProcess] = {}
        for rank in range(world):
            ours, theirs = context.Pipe()
            store = str(Path(self._scratch.name) / "store")
            # Daemons: they end with this process, whatever ends it.
            process = context.Process(target=_serve, args=(theirs, rank, world, store), daemon=True)
            process.start()
            theirs.close()
            self._ranks[ours] = process

    def run(self, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        for connection in self._ranks:
            connection.send((function, args))
        busy = list(self._ranks)
        while busy:
            for connection in wait(busy):
                assert isinstance(connection, Connection)
                try:
                    failure = connection.recv()
                except (EOFError, ConnectionResetError):
                    self._ranks[connection].join()
                    failure = f"a rank ended with exit code {self._ranks[connection].exitcode}"
                if failure is not None:
                    raise RankError(failure)
                busy.remove(connection)

    def end(self) -> None:
        for process in self._ranks.values():
            process.kill()
        for process in self._ranks.values():
            process.join()
        self._scratch.cleanup()


_kept: dict[int, _Group] = {}
"""By size."""


def _serve(connection: Connection, rank: int, world: int, store: str) -> None:
    faulthandler.enable()
    torch.set_num_threads(1)
    os.environ.update(RECORDER)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    while True:
        try:
            function, args = connection.recv()
        except EOFError:
            # Interpreter shutdown is skipped: a library's native thread that asks for the GIL by then aborts it.
            os._exit(0)
        failure = None
        try:
            function(rank, world, *args)
        except BaseException as error:  # whatever it is, the test must hear of it
            failure = f"rank {rank}: {''.join(traceback.format_exception(error))}"
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(failure)
