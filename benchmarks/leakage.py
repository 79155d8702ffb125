"""Time and memory of the leakage check: a scored split looked up in the hashes of a large training split.

    python benchmarks/leakage.py --samples 10000000 --scored 100000 --json

Writes a file of random hashes, of which 500 ids, groups and texts are in both splits, then measures in a fresh process
what the preflight of a pool does with it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ivr_dist.data.overlap import HashedSplit, find_overlaps
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_hashes import HashRows, HashTable
from ivr_dist.shards.specs import HashesEntry

SHARED = 500


def write(folder: Path, samples: int, scored: int) -> float:
    """Write the hashes of both splits; returns the seconds of sorting and writing those of the training split."""
    random = np.random.default_rng(0)
    train = random.integers(1, 2**64 - 1, (samples, 3), dtype=np.uint64)
    other = random.integers(1, 2**64 - 1, (scored, 3), dtype=np.uint64)
    other[:SHARED] = train[:: max(samples // SHARED, 1)][:SHARED]
    began = time.perf_counter()
    for name, hashes in (("train", train), ("test", other)):
        rows = HashRows.of(hashes)
        rows.save(str(folder / name))
        (folder / name / "entry.json").write_text(json.dumps(asdict(rows.entry)))
        if name == "train":
            seconds = time.perf_counter() - began
    return seconds


def opened(folder: Path, corpus: str, split: str) -> HashedSplit:
    """Open the hashes of a split."""
    entry = HashesEntry(**json.loads((folder / split / "entry.json").read_text()))
    manifest = Manifest.create(corpus=corpus, split=split, seed=0, features={}, tasks={}, shards=[])
    url = str(folder / split)
    return HashedSplit(corpus, split, url, manifest, HashTable.open(url, entry))


def measure(folder: Path) -> dict[str, float]:
    """Look up the scored split, and ten ids as `data.exclude` does."""
    before = _peak_mib()
    began, cpu = time.perf_counter(), time.process_time()
    found = find_overlaps([opened(folder, "a", "train")], [opened(folder, "b", "test")], lambda *_: ["example"])
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    train = opened(folder, "a", "train")
    ids = np.sort(next(train.table.rows("id"))[:: 1 << 14, 0][:10])
    began = time.perf_counter()
    train.table.find("id", ids)
    return {
        "texts": found.pairs[0].texts,
        "dropped": len(found.dropped["a"].excluded),
        "lookup_s": seconds,
        "lookup_cpu_s": cpu,
        "lookup_mib": _peak_mib() - before,
        "ten_ids_ms": 1000 * (time.perf_counter() - began),
    }


def _peak_mib() -> float:
    # Not by getrusage, whose peak would be that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--scored", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measure(options.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        written = write(Path(folder), options.samples, options.scored)
        command = [sys.executable, __file__, "--folder", folder]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    result = {"samples": options.samples, "scored": options.scored, "write_s": written, **measured}
    lines = [f"{name:>14} {value:,.2f}" for name, value in result.items()]
    print(json.dumps(result) if options.json else "\n".join(lines))


if __name__ == "__main__":
    main()
