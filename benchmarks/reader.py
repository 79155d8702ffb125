"""Reading timed: shuffled batches of tensors from a corpus shaped like MOSEI, beside the libraries of the field.

    python benchmarks/reader.py
    python benchmarks/reader.py --through slow
    python benchmarks/reader.py --through s3 --readers webdataset ivr_dist
    python benchmarks/reader.py --samples 4000 --rounds 1 --json

The corpus: 64 tars, samples of text int32 [50], audio float32 [50, 74] and vision float32 [50, 35] with a label. Every
reader delivers each sample once, shuffled, in batches of 64; webdataset reads tars that its own writer wrote,
mosaicml-streaming and litdata, where they are installed, their own formats. webdataset reads our tars too, and its
tensors and ours are compared bit by bit. Each run is a process of its own; readers take turns, and figures are medians
of the rounds. The files have been read before, so the disk plays no part.

`--through slow` reads through a server on this machine that answers after 25 ms and gives each connection 80 MB/s, and
`--through slow-s3` by the clients of S3 from the same server; `--through s3` through SeaweedFS with signed requests.
webdataset then reads files of fsspec, which s3fs opens for S3; its workers, processes that are spawned, have curl fetch
each shard, as webdataset does by itself.

samples/s   of one epoch, from an imported library to the last batch; what it reaches a server by is imported too
x           over those of webdataset
CPU s       of the process and its children, for one epoch
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from readers import BATCH, READERS, Place, digests, import_for, installed, make_corpus, server

BASE = "webdataset"
PLAIN_TARS = "webdataset, our tars"
LOCAL = ("cat", BASE, "webdataset, 2 workers", PLAIN_TARS, "streaming", "litdata", "ivr_dist", "ivr_dist, no check")
SLOW = (BASE, "webdataset, 2 workers", "ivr_dist")
S3 = (BASE, "ivr_dist")


def main() -> int:
    """Race and print."""
    options = parse()
    names = options.readers or {"disk": LOCAL, "slow": SLOW, "slow-s3": S3, "s3": S3}[options.through]
    absent = [name for name in names if not installed(name)]
    if absent:
        print(f"not installed, left out: {', '.join(absent)}", file=sys.stderr)
    racing = [name for name in names if name not in absent]
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="ivr-reader-") as folder:
        place = make_corpus(Path(folder), options.samples, racing)
        if {PLAIN_TARS, "ivr_dist"} <= set(racing):
            check_equal(place)
        with server(place, options.through) as served:
            found: dict[str, list[Mapping[str, float]]] = {name: [] for name in racing}
            for number in range(options.rounds):
                # Turns begin with another reader in each round.
                for name in racing[number % len(racing) :] + racing[: number % len(racing)]:
                    found[name].append(alone(name, served))
    rows = [row(name, runs, found.get(BASE), options.samples) for name, runs in found.items()]
    show(rows, options)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--readers", nargs="+", choices=list(READERS))
    parser.add_argument(
        "--through", choices=("disk", "slow", "slow-s3", "s3"), default="disk", help="where the corpus is read from"
    )
    parser.add_argument("--folder", help="where the corpus is written; default: the temporary folder")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on stdout")
    return parser.parse_args()


def check_equal(place: Place) -> None:
    """Refuse to time a reader that reads something else."""
    ours, theirs = (in_process(digests, name, place) for name in ("ivr_dist", PLAIN_TARS))
    assert ours == theirs, "ivr_dist and webdataset do not read the same tensors"
    print(f"{len(ours)} samples: the tensors of ivr_dist and webdataset are the same, bit by bit", file=sys.stderr)


def in_process(function: Any, *arguments: Any) -> Any:
    """What a function returns in a process of its own."""
    # Not a Pool, whose processes may not start any of their own.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def alone(name: str, place: Place) -> Mapping[str, float]:
    """One epoch of one reader."""
    if name == "cat":
        started = time.perf_counter()
        subprocess.run(["cat", *place.tars("packed/train")], stdout=subprocess.DEVNULL, check=True)
        return {"seconds": time.perf_counter() - started, "first": 0.0, "cpu": 0.0, "samples": place.samples}
    return in_process(epoch, name, place)  # type: ignore[no-any-return]


def epoch(name: str, place: Place) -> Mapping[str, float]:
    """Runs in a process of its own."""
    import torch

    torch.set_num_threads(1)
    import_for(name, place)
    batches = READERS[name](place)
    started, before = time.perf_counter(), _cpu()
    first, samples = 0.0, 0
    for batch in batches:
        first = first or time.perf_counter() - started
        samples += len(batch["audio"])
    return {"seconds": time.perf_counter() - started, "first": first, "cpu": _cpu() - before, "samples": samples}


def _cpu() -> float:
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def row(
    name: str, runs: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]] | None, samples: int
) -> dict[str, Any]:
    """Medians of one reader."""
    assert all(run["samples"] == samples for run in runs), f"{name} did not deliver every sample once"
    seconds = statistics.median(run["seconds"] for run in runs)
    return {
        "reader": name,
        "samples/s": samples / seconds,
        "x": statistics.median(run["seconds"] for run in base) / seconds if base else None,
        "CPU s": statistics.median(run["cpu"] for run in runs),
        "first batch s": statistics.median(run["first"] for run in runs),
    }


def show(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Print the table, and JSON if asked for."""
    out = sys.stderr if options.json else sys.stdout
    print(f"{options.samples} samples in batches of {BATCH}, {os.cpu_count()} processors", file=out)
    print(f"{'':22} {'samples/s':>10} {'x':>6} {'CPU s':>7} {'first batch s':>14}", file=out)
    for each in rows:
        ratio = "" if each["x"] is None else f"{each['x']:.2f}"
        times = f"{each['CPU s']:7.2f} {each['first batch s']:14.3f}"
        print(f"{each['reader']:22} {each['samples/s']:10.0f} {ratio:>6} {times}", file=out)
    if options.json:
        print(json.dumps({"samples": options.samples, "through": options.through, "rows": list(rows)}))


if __name__ == "__main__":
    sys.exit(main())
