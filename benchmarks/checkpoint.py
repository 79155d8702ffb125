"""What a checkpoint costs: how long training stands still, and how long until it is complete.

    python benchmarks/checkpoint.py
    python benchmarks/checkpoint.py --millions 10 --stages 1 3 --places disk

One process trains a stack of matrices with AdamW, and saves after every few steps. `sync` waits until the checkpoint is
complete, `async` until it is copied in memory; a step is what training does between two checkpoints, so an asynchronous
checkpoint that takes longer than the steps until the next one makes that one wait.

stall      median seconds that training stands still for a checkpoint
copy       median seconds to copy as many bytes in memory once more, in the same run
durable    median seconds from the beginning of a checkpoint until it is complete
slower     how much longer a step takes while a checkpoint is being written beside it

`disk` is the temporary directory, written through to the disk; `s3` is SeaweedFS on this machine, with signed requests.
`--json` ends with one JSON object on the last line of stdout; the table goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ivr_dist import storage
from ivr_dist.checkpoint.state import CheckpointState
from ivr_dist.config.loading import from_dict
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.planning.deepspeed_config import deepspeed_config
from ivr_dist.runtime import device
from ivr_dist.training.checkpointer import Checkpointer

_WIDTH = 1000


class Stack(nn.Module):
    """Square matrices of a million parameters each."""

    def __init__(self, millions: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(millions)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, _WIDTH] to the same."""
        found: torch.Tensor = self.layers(x)
        return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", nargs="+", type=int, default=[10, 100], help="of parameters")
    parser.add_argument("--stages", nargs="+", type=int, default=[1], choices=range(4))
    parser.add_argument("--places", nargs="+", default=["disk", "s3"], choices=["disk", "s3"])
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device.tune_memory()
    stream = sys.stderr if options.json else sys.stdout
    found = []
    with tempfile.TemporaryDirectory(prefix="ivr-checkpoints-") as scratch, process_group(scratch):
        for place in options.places:
            with at(place, scratch) as url:
                for millions in options.millions:
                    for stage in options.stages:
                        rows = measure(millions, stage, place, url, options.saves)
                        for row in rows:
                            if not found:
                                print("  ".join(f"{name:>9}" for name in row), file=stream)
                            cells = (f"{v:9.3f}" if isinstance(v, float) else f"{v:>9}" for v in row.values())
                            print("  ".join(cells), file=stream, flush=True)
                            found.append(row)
    if options.json:
        print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": found}))
    return 0


@contextmanager
def process_group(scratch: str) -> Iterator[None]:
    """Of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def at(place: str, scratch: str) -> Iterator[str]:
    """Where checkpoints go."""
    if place == "disk":
        yield f"{scratch}/run"
        return
    sys.path.append(str(Path(__file__).parent.parent))
    from tests import s3_server

    with tempfile.TemporaryDirectory(prefix="ivr-s3-") as folder, s3_server.serve(Path(folder)) as environment:
        os.environ.update(environment)
        yield f"s3://{s3_server.BUCKET}/run"


def measure(millions: int, stage: int, place: str, url: str, saves: int) -> Iterator[Mapping[str, Any]]:
    """One row for each way of saving."""
    config = from_dict({"data": {"train": "none"}, "zero": {"stage": stage}})
    derived = deepspeed_config(config, world=1, micro_batch=32, accumulation=1)
    engine = Engine(Stack(millions), derived, weight_decay=0.01, device=torch.device("cpu"))
    x = torch.randn(32, _WIDTH)

    def step() -> float:
        started = time.monotonic()
        engine.backward(engine.forward(x).square().mean())
        engine.step({"main": 1e-6, "text": 0.0})
        return time.monotonic() - started

    state = CheckpointState(step=0, config={}, model={"preset": "ivr"}, features={}, tasks={}, statistics={})
    quiet = statistics.median(step() for _ in range(5))
    for asynchronous in (False, True):
        run = storage.join(url, f"{millions}-{stage}-{asynchronous}")
        saver = Checkpointer(run, 1, [], engine, keep_last=1, asynchronous=asynchronous)
        stalls, durable, beside = [], [], []
        for number in range(1, saves + 1):
            started = time.monotonic()
            saver.save(replace(state, step=number), None)
            stalls.append(time.monotonic() - started)
            # Until it is complete, so that the next one does not wait for it.
            while not (done := saver.take_saved()):
                beside.append(step())
                error = saver.take_error()
                if error is not None:
                    raise error
            durable.append(done[0].seconds)
        saver.finish()
        storage.delete_tree(run)
        yield {
            "place": place,
            "millions": millions,
            "stage": stage,
            "way": "async" if asynchronous else "sync",
            # The first save of a run also allocates what the later ones copy to.
            "stall": statistics.median(stalls[1:]),
            "first": stalls[0],
            "copy": copying(12 * millions * 10**6),
            "durable": statistics.median(durable[1:]),
            "slower": statistics.median(beside) / quiet if asynchronous and beside else 1.0,
        }


def copying(size: int) -> float:
    """Median seconds to copy so many bytes from one place in memory to another."""
    source, target = torch.zeros(size // 4), torch.zeros(size // 4)
    times = []
    for _ in range(3):
        started = time.monotonic()
        target.copy_(source)
        times.append(time.monotonic() - started)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
