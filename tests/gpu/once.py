"""Runs in separate processes: DeepSpeed initializes its device and process group once per process.

    python -m tests.gpu.once cuda 1 CORPUS '[["DIR", ["zero.stage=1"]], ...]'

Prints one line of JSON: of each run its losses by step, and its metrics.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from ivr_dist import storage
from ivr_dist.config.loading import load_config
from ivr_dist.orchestration import worker
from ivr_dist.run import attempts
from ivr_dist.run.events import Event
from ivr_dist.run.results import loss_curve
from ivr_dist.runtime import collectives, device

Run = tuple[str, list[str]]

SMALL = (
    "train.max_steps=12",
    "train.global_batch=64",
    "train.eval_every=100steps",
    "loss.consistency.group=16",
    "model.dropout=0.0",
    "checkpoint.every=100steps",
)


class Silent:
    """A console that says nothing and asks for nothing."""

    def emit(self, event: Event) -> None:
        pass

    def stop_requested(self) -> bool:
        return False


def train_all(rank: int, workers: int, store: str, corpus: str, runs: list[Run]) -> None:
    """All runs on one rank."""
    os.environ["LOCAL_RANK"] = "0"
    if workers > 1:
        # All ranks on one GPU, which gloo puts up with and NCCL does not.
        device.backend_with = lambda *, gpus: "cpu:gloo,cuda:gloo" if gpus else "gloo"  # type: ignore[assignment]
        device.bound_device = lambda local_rank, world: None
    with collectives.group(store, rank, workers):
        for folder, settings in runs:
            own = [f"run.dir={folder}", f"run.num_workers={workers}", f"data.train={corpus}/train"]
            config = load_config(None, [*SMALL, *own, f"data.valid={corpus}/valid", *settings])
            before = len(attempts.read_attempts(folder))
            dist.barrier()
            worker.train(config, Silent(), 0, before)


def main() -> None:
    kind, workers, corpus, runs = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    if kind == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(4)
    with tempfile.TemporaryDirectory() as scratch:
        store = str(Path(scratch) / "store")
        if workers == 1:
            train_all(0, 1, store, corpus, runs)
        else:
            spawn(train_all, (workers, store, corpus, runs), nprocs=workers)  # type: ignore[no-untyped-call]
    found = [
        {"losses": dict(loss_curve(folder)), "metrics": storage.read_json(f"{folder}/result.json")["metrics"]}
        for folder, _ in runs
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
