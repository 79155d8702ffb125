"""Packing timed, beside `tar` and `sha256sum` of the corpus' file.

    python benchmarks/pack.py
    python benchmarks/pack.py --samples 2000 --processes 1 2 4 --folder /dev/shm --json

The corpus is as large as MOSEI, in samples and in steps and bytes of each (50, 22 KB): one pickle of MMSA with
random features. Packing is timed from opening the file to the last manifest; other processes open it for themselves.
All take turns, so that whatever else the machine does hits them alike; figures are medians. What packing writes is
synced to the disk, what tar writes is not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ivr_dist.corpora import registry
from ivr_dist.corpora.card import Card, FeatureSet, SourceFile, Split
from ivr_dist.corpora.card_mappings import MmsaMapping
from ivr_dist.packing.pack import pack
from ivr_dist.packing.worker_pool import ProcessPool
from ivr_dist.shards.specs import TaskSpec

STEPS = 50
WIDTHS = {"text": 36, "audio": 39, "vision": 35}
SPLITS = {"train": 0.715, "valid": 0.08, "test": 0.205}
NAME = "aligned_50.pkl"


def make_corpus(folder: Path, samples: int) -> Card:
    """Write the corpus' file; the card by which it is packed."""
    random = np.random.default_rng(0)
    ends = np.cumsum([round(share * samples) for share in SPLITS.values()])[:-1]
    parts = {}
    for split, numbers in zip(SPLITS, np.split(np.arange(samples), ends), strict=True):
        parts[split] = {
            "id": [f"{split}{number // 10}$_${number}" for number in numbers],
            "raw_text": ["and so it was a good film with a story of its own"] * len(numbers),
            "regression_labels": random.uniform(-3, 3, len(numbers)),
            **{m: random.standard_normal((len(numbers), STEPS, width), np.float32) for m, width in WIDTHS.items()},
        }
    with open(folder / NAME, "wb") as file:
        pickle.dump(parts, file, protocol=4)
    return Card(
        name="mosei_shaped",
        description="Random features",
        citation="",
        licence="",
        format="mmsa",
        files={"all": SourceFile(path=NAME)},
        features={m: FeatureSet(set=m, dim=width) for m, width in WIDTHS.items()},
        tasks={"sentiment": TaskSpec(type="regression", low=-3, high=3, scale="mosi")},
        splits={name: Split() for name in SPLITS},
        mmsa=MmsaMapping(file="all", labels={"sentiment": "regression_labels"}),
    )


def tar_and_sum(folder: Path) -> None:
    """The yardstick."""
    out = folder / "corpus.tar"
    subprocess.run(["tar", "-cf", out, "-C", folder, NAME], check=True)
    subprocess.run(["sha256sum", out], check=True, stdout=subprocess.DEVNULL)


def packed(folder: Path, card: Card, processes: int) -> str:
    """Pack once, on this process or on others; a digest of all manifests."""
    source = registry.open_source(str(folder), card)
    opener = registry.opener(str(folder), card, source)
    pool = ProcessPool(processes) if processes > 1 else None
    summary = pack(source, str(folder / "out"), opener=opener, pool=pool)
    return hashlib.sha256("".join(split.manifest_id for split in summary.splits).encode()).hexdigest()


def timed(turn: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of processors, of this process and those it waited for."""
    before, started = os.times(), time.perf_counter()
    turn()
    after = os.times()
    return time.perf_counter() - started, sum(after[:4]) - sum(before[:4])


def main() -> int:
    """Race and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the corpus and the shards are written; default: the temporary folder")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="ivr-pack-") as name:
        folder = Path(name)
        card = make_corpus(folder, options.samples)
        size = (folder / NAME).stat().st_size
        turns: dict[str, Callable[[], object]] = {"tar + sha256sum": lambda: tar_and_sum(folder)}
        digests: set[str] = set()
        for count in options.processes:
            turns[f"pack, {count}"] = lambda count=count: digests.add(packed(folder, card, count))
        times: dict[str, list[tuple[float, float]]] = {turn: [] for turn in turns}
        for _ in range(options.rounds):
            for turn, run in turns.items():
                times[turn].append(timed(run))
                shutil.rmtree(folder / "out", ignore_errors=True)
    assert len(digests) == 1, "the number of processes changed what was packed"
    clock = {turn: statistics.median(wall for wall, _ in found) for turn, found in times.items()}
    processor = {turn: statistics.median(cpu for _, cpu in found) for turn, found in times.items()}
    rows = [
        {
            "what": turn,
            "seconds": clock[turn],
            "mb_per_s": size / clock[turn] / 1e6,
            "of_tar_and_sha256sum": clock["tar + sha256sum"] / clock[turn],
            "cpu_seconds": processor[turn],
            "cpu_of_tar_and_sha256sum": processor["tar + sha256sum"] / processor[turn],
        }
        for turn in turns
    ]
    out = sys.stderr if options.json else sys.stdout
    print(f"{options.samples} samples, {size / 1e6:.0f} MB, {os.cpu_count()} processors", file=out)
    print(f"{'':16} {'s':>7} {'MB/s':>7} {'ratio':>7} {'CPU s':>7} {'ratio':>7}", file=out)
    for row in rows:
        what, *figures = row.values()
        print(f"{what:16} " + " ".join(f"{figure:7.2f}" for figure in figures), file=out)
    if options.json:
        print(json.dumps({"samples": options.samples, "bytes": size, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
