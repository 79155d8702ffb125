"""Collectives of a training step counted: calls and bytes, by who calls them.

    python benchmarks/collectives.py
    python benchmarks/collectives.py --world 4 --stage 2 --accumulation 2

Trains a small synthetic corpus on gloo ranks of this machine and counts what rank 0 calls of `torch.distributed` in the
steps after the first few. Counts do not depend on the machine; bytes are those of the tensors that are passed.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import traceback
from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from ivr_dist.config.loading import load_config
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.orchestration import worker
from ivr_dist.packing.pack import pack
from ivr_dist.run.events import Event
from ivr_dist.runtime import collectives
from ivr_dist.training.train_step import TrainStep

_COUNTED = (
    "all_reduce",
    "broadcast",
    "reduce",
    "all_gather",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "all_gather_object",
    "broadcast_object_list",
    "barrier",
)
_FIRST = 4
"""Steps that are not counted: DeepSpeed settles in them."""


def main() -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--stage", type=int, default=1, choices=range(4))
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--count", type=int, default=4, help="steps that are counted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ivr-collectives-") as scratch:
        pack(SynthSource(samples=400, seed=1), f"{scratch}/corpus")
        spawn(train, (options, scratch), nprocs=options.world)  # type: ignore[no-untyped-call]
    return 0


class Quiet:
    """A console that says nothing."""

    def emit(self, event: Event) -> None:
        """Drop an event."""

    def stop_requested(self) -> bool:
        """Never."""
        return False


class Calls:
    """Counts calls while it is open."""

    def __init__(self) -> None:
        self.open = False
        self.calls: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        self._depth = 0

    def wrap(self, name: str) -> None:
        """Count the calls of a function of `torch.distributed`, but not those that it makes itself."""
        real = getattr(dist, name)

        @functools.wraps(real)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.open and not self._depth:
                where = f"{name:24} {_caller()}"
                self.calls[where] += 1
                self.sizes[where] += _largest([*args, *kwargs.values()])
            self._depth += 1
            try:
                return real(*args, **kwargs)
            finally:
                self._depth -= 1

        setattr(dist, name, counted)


def _largest(args: list[Any]) -> int:
    """Bytes of the largest tensor, or list of tensors, among arguments."""
    lists = [arg if isinstance(arg, list) else [arg] for arg in args]
    sizes = [sum(t.numel() * t.element_size() for t in each if isinstance(t, torch.Tensor)) for each in lists]
    return max(sizes, default=0)


def _caller() -> str:
    """The innermost line of this package or of DeepSpeed that leads to a call."""
    for frame in reversed(traceback.extract_stack()[:-2]):
        for package in ("/ivr_dist/", "/deepspeed/runtime/"):
            if package in frame.filename and "collectives.py" not in frame.filename:
                return f"{package[1:]}{frame.filename.split(package)[-1]} {frame.name}"
    return "elsewhere"


def train(rank: int, options: argparse.Namespace, scratch: str) -> None:
    """One rank: train, and on rank 0 print what was counted."""
    torch.set_num_threads(1)
    calls = Calls()
    for name in _COUNTED:
        calls.wrap(name)
    last = _FIRST + options.count
    real = TrainStep.run

    def run(self: TrainStep, step: int, *args: Any, **kwargs: Any) -> Any:
        # From one step to the next, so that what opens a step is counted too.
        calls.open = _FIRST <= step < last
        return real(self, step, *args, **kwargs)

    TrainStep.run = run  # type: ignore[method-assign]
    overrides = {
        "run.dir": f"{scratch}/run",
        "run.num_workers": options.world,
        "data.train": f"{scratch}/corpus/train",
        "train.select": "last",
        "train.max_steps": last + 2,
        "train.global_batch": 16 * options.world * options.accumulation,
        "train.accumulation": options.accumulation,
        "loss.consistency.group": 16,
        "zero.stage": options.stage,
        "checkpoint.every": "1000steps",
        "log.svr_every": 0,
        "log.every": 1000,
    }
    with collectives.group(f"{scratch}/store", rank, options.world):
        worker.train(load_config(None, [f"{key}={value}" for key, value in overrides.items()]), Quiet(), rank, 0)
    if rank == 0:
        print(
            f"{options.world} ranks, ZeRO {options.stage}, {options.accumulation} micro-steps; calls and bytes a step"
        )
        for where, count in calls.calls.most_common():
            print(f"{count / options.count:6.2f}  {calls.sizes[where] / options.count:12,.0f} B  {where}")
        print(f"{calls.calls.total() / options.count:6.2f}  {calls.sizes.total() / options.count:12,.0f} B  all")


if __name__ == "__main__":
    sys.exit(main())
