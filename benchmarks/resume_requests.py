"""Requests to storage of one rank that resumes, by the number of parts of the checkpoint.

    python benchmarks/resume_requests.py
    python benchmarks/resume_requests.py --parts 8 64 1024

Writes checkpoints of a small model in so many parts and counts the calls of `ivr_dist.storage` while one rank verifies
its share and reads all weights. What matters is how the counts grow with the parts: every rank makes them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any
from unittest.mock import patch

import torch

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.fragments import Fragment, share
from ivr_dist.checkpoint.tensors import describe_fragments, open_tensors, tensor_files

_REQUESTS = ("read_json", "read_bytes", "read_text", "read_range", "list_dir", "exists", "size", "download")
_SHAPES = {f"layer{number}.weight": [128, 128] for number in range(24)}


def main() -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", type=int, default=[8, 64, 256])
    options = parser.parse_args()
    for parts in options.parts:
        with tempfile.TemporaryDirectory(prefix="ivr-requests-") as scratch:
            url = f"{scratch}/step-00000001.a01"
            write(url, parts)
            with counted() as verifying:
                state = store.verify(url, parts - 1, parts)
            with counted() as loading, open_tensors(url, state) as tensors:
                for name in _SHAPES:
                    tensors.weight(name)
        print(f"{parts:5} parts  verify: {_text(verifying)}  load weights: {_text(loading)}", flush=True)
    return 0


def write(url: str, parts: int) -> None:
    """A checkpoint in so many parts."""
    whole = [
        Fragment(name, 0, prod(shape), {key: torch.zeros(prod(shape)) for key in ("weight", "exp_avg", "exp_avg_sq")})
        for name, shape in _SHAPES.items()
    ]
    for rank in range(parts):
        own = share(whole, rank, parts)
        files: dict[str, Any] = dict(tensor_files(own, rank))
        if rank == 0:
            files[store.STATE] = [json.dumps({"format": store.FORMAT, "shapes": _SHAPES}).encode()]
        store.write_part(url, rank, parts, files, describe_fragments(own))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """The calls of `storage` inside, by function."""
    calls: Counter[str] = Counter()

    def counting(name: str) -> Any:
        real = getattr(storage, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return real(*args, **kwargs)

        return call

    with patch.multiple(storage, **{name: counting(name) for name in _REQUESTS}):
        yield calls


def _text(calls: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in calls.most_common())


if __name__ == "__main__":
    sys.exit(main())
