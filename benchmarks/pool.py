"""Reading and planning of pools timed: the same number of samples in one corpus, in 8 and in 50.

    python benchmarks/pool.py --json
    python benchmarks/pool.py --through slow --rounds 1

All corpora have the feature sets of `reader.py`, 64 samples a batch, and equal shares. Each run is a process of its
own; they take turns, and figures are medians of the rounds. The files have been read before, so the disk plays no part.
`--through slow` reads through a server on this machine that answers after 25 ms and gives each connection 80 MB/s.

samples/s       of one epoch, wall time
samples/CPU s   of the process, all threads
x               over those of one corpus
order           CPU time of the order alone, as a part of that of reading
fetched         bytes fetched by 8 workers that read one epoch together and nothing beyond it, over those of the shards

Planning: quotas, mixing tree, lanes and the first global batch of 10^9 samples in 50 corpora of 12 thousand to 186
million each; the time, and the memory of the process with everything that it imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

POOLS = (1, 8, 50)
BATCH = 64
SHARD_SAMPLES = 175
WORKERS = 8
MODALITIES = ("text", "audio", "vision")
CACHE_BYTES = 1 << 30


def main() -> int:
    """Measure and print."""
    options = parse()
    planning = in_process(plan_large_pool)
    rows: list[dict[str, Any]] = []
    if options.samples:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="ivr-pool-") as folder:
            for corpora in POOLS:
                in_process(write, folder, corpora, options.samples)
            rows = race(folder, options)
    show(rows, planning, options)
    return 0


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=11_200, help="of all corpora together; 0: planning only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--through", choices=("disk", "slow"), default="disk", help="where corpora are read from")
    parser.add_argument("--folder", help="where corpora are written; default: the temporary folder")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on stdout")
    return parser.parse_args()


def in_process(function: Any, *arguments: Any) -> Any:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def write(folder: str, corpora: int, samples: int) -> None:
    """Pack `samples` random samples as that many corpora of equal size, below `folder/CORPORA/NAME/train`."""
    from readers import MoseiShaped

    from ivr_dist.packing.pack import PackOptions, pack

    for number in range(corpora):
        source = MoseiShaped(samples // corpora)
        source.corpus = f"corpus{number}"  # type: ignore[misc]
        pack(source, f"{folder}/{corpora}/corpus{number}", PackOptions(shard_samples=SHARD_SAMPLES, seed=number))


def race(folder: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Read the pools in turns; a row for each."""
    found: dict[int, list[Mapping[str, float]]] = {corpora: [] for corpora in POOLS}
    with served(folder, options.through) as place:
        for number in range(options.rounds):
            # Turns begin with another pool in each round.
            for corpora in POOLS[number % len(POOLS) :] + POOLS[: number % len(POOLS)]:
                found[corpora].append(in_process(read, place, corpora))
    rows = []
    for corpora, runs in found.items():
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        row = {
            "corpora": corpora,
            "samples/s": medians["samples"] / medians["seconds"],
            "samples/CPU s": medians["samples"] / medians["cpu"],
            "order": medians["order"] / medians["cpu"],
            "fetched": in_process(fetched, folder, corpora),
        }
        base = rows[0] if rows else row
        rows.append(row | {f"x {name}": row[name] / base[name] for name in ("samples/s", "samples/CPU s")})
    return rows


@contextmanager
def served(folder: str, through: str) -> Any:
    """Yield the path or URL that the corpora are read by."""
    if through == "disk":
        yield folder
        return
    from slow_server import serve

    with serve(Path(folder), latency_s=0.025, bytes_per_s=80e6) as url:
        yield url


def opened(place: str, corpora: int, rank: int = 0, world: int = 1) -> tuple[Any, Any]:
    """Open the loader of one rank, as a run does; returns it with its order."""
    from ivr_dist.data.batches.collate import BatchSpec
    from ivr_dist.data.batches.pool_spec import pool_spec
    from ivr_dist.data.cursor import DataCursor
    from ivr_dist.data.loader import Loader
    from ivr_dist.data.pooled_loader import PooledLoader
    from ivr_dist.data.pooled_order import PooledOrder
    from ivr_dist.data.reading.pool_reader import PoolReader
    from ivr_dist.data.reading.shard_reader import ShardReader
    from ivr_dist.data.run_order import OneCorpusOrder
    from ivr_dist.planning.pool_layout import CorpusLayout, PoolLayout
    from ivr_dist.planning.pool_plan import Phase, PooledCorpus, pool_delays
    from ivr_dist.planning.quotas import pool_lanes
    from ivr_dist.shards.manifest import Manifest

    urls = {f"corpus{number}": f"{place}/{corpora}/corpus{number}/train" for number in range(corpora)}
    trains = {name: Manifest.load(url) for name, url in urls.items()}
    counts = [train.samples for train in trains.values()]
    lanes = pool_lanes(counts, counts)
    delays = pool_delays(counts, [train.total_bytes for train in trains.values()], lanes)
    first = trains["corpus0"]
    sharing = {"rank": rank, "world": world}
    if corpora == 1:
        spec = BatchSpec.from_manifest(first, MODALITIES, standardize=("audio", "vision"))
        reader = ShardReader(urls["corpus0"], first, CACHE_BYTES)
        loader = Loader(reader, spec, global_batch=BATCH, lanes=lanes[0], delay=delays[0], seed=0, **sharing)
        start = DataCursor(manifest_id=first.id, seed=0, lanes=lanes[0], global_batch=BATCH, delay=delays[0])
        return loader, OneCorpusOrder("corpus0", first.shard_samples, start)
    names = {modality: first.features[modality].set for modality in MODALITIES}
    kinds = {modality: (first.features[modality].kind, first.features[modality].dim) for modality in MODALITIES}
    kinds["text"] = ("tokens", max(train.vocabulary["text"] for train in trains.values()))
    layout = PoolLayout(
        corpora=tuple(
            CorpusLayout(name=name, sets=names, tasks=train.tasks, heads={task: task for task in train.tasks})
            for name, train in trains.items()
        ),
        sets={modality: {names[modality]: kinds[modality]} for modality in MODALITIES},
        heads=dict(first.tasks),
        is_pool=True,
    )
    pooled = [
        PooledCorpus(
            name=name, manifest_id=train.id, shard_samples=train.shard_samples, lanes=own_lanes, delay=own_delay
        )
        for (name, train), own_lanes, own_delay in zip(trains.items(), lanes, delays, strict=True)
    ]
    order = PooledOrder(pooled, [Phase(0, dict(zip(trains, counts, strict=True)))], 0, BATCH)
    reader = PoolReader(
        {number: (urls[name], train) for number, (name, train) in enumerate(trains.items())}, CACHE_BYTES
    )
    return PooledLoader(reader, pool_spec(layout, trains, ("audio", "vision")), order, **sharing), order


def read(place: str, corpora: int) -> Mapping[str, float]:
    """Read an epoch, after what is read by has been imported."""
    import torch

    from ivr_dist.runtime import device
    from ivr_dist.runtime.garbage_collection import collected_by_step

    torch.set_num_threads(1)
    device.tune_memory()
    loader, order = opened(place, corpora)
    began, cpu, samples = time.perf_counter(), time.process_time(), 0
    with loader, collected_by_step() as collect:
        for number, step in enumerate(loader.steps(loader.start), 1):
            if step.epoch:
                break
            collect(number)
            samples += sum(len(batch) for batch in step.micro_batches)
        # Without waiting for the threads to end.
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    cursor, began_order = order.start, time.process_time()
    while not cursor.epoch:
        order.batch(cursor)
        cursor = order.advance(cursor)
    return {"samples": samples, "seconds": seconds, "cpu": cpu, "order": time.process_time() - began_order}


def fetched(place: str, corpora: int) -> float:
    """Read an epoch by 8 workers one after another; returns the bytes fetched over those of the shards."""
    from ivr_dist.shards.manifest import Manifest

    total = sum(Manifest.load(f"{place}/{corpora}/corpus{number}/train").total_bytes for number in range(corpora))
    count = 0.0
    for rank in range(WORKERS):
        loader, order = opened(place, corpora, rank, WORKERS)
        requests = ((corpus, numbers) if corpora > 1 else numbers for corpus, numbers in samples_of(order, rank))
        with loader:
            # The loader itself would prefetch samples of the next epoch.
            for _ in loader.reader.read_ahead(requests):
                pass
            count += loader.meters()["bytes"]
    return count / total


def samples_of(order: Any, rank: int) -> Iterator[tuple[Any, Any]]:
    """Corpora and numbers of the samples that a worker reads in each step of an epoch."""
    from ivr_dist.data.sample_order import EMPTY, rank_slots

    slots = rank_slots(range(BATCH), rank, WORKERS)
    cursor = order.start
    while not cursor.epoch:
        batch = order.batch(cursor)
        cursor = order.advance(cursor)
        corpus, numbers = batch.corpus[slots.start : slots.stop], batch.numbers[slots.start : slots.stop]
        yield corpus[numbers != EMPTY], numbers[numbers != EMPTY]


def plan_large_pool() -> Mapping[str, float]:
    """Plan 10^9 samples in 50 corpora; seconds, and MiB of the process."""
    import resource

    from ivr_dist.data.pooled_order import PooledOrder
    from ivr_dist.planning.pool_plan import Phase, PooledCorpus
    from ivr_dist.planning.quotas import largest_remainders, pool_lanes, share_weights

    sizes = np.geomspace(12_000, 186e6, 50)
    samples = {f"corpus{number}": int(size) for number, size in enumerate(sizes * (1e9 / sizes.sum()))}
    shards = {name: np.full(-(-count // 10_000), 10_000) for name, count in samples.items()}
    for name, count in samples.items():
        shards[name][-1] -= shards[name].sum() - count
    began = time.perf_counter()
    total = sum(samples.values())
    quotas = largest_remainders(total, share_weights(samples, 0.5))
    lanes = pool_lanes(list(quotas.values()), list(samples.values()))
    planned = time.perf_counter() - began
    corpora = [
        PooledCorpus(name=name, manifest_id=f"{number:064x}", shard_samples=shards[name], lanes=own, delay=1000)
        for number, (name, own) in enumerate(zip(samples, lanes, strict=True))
    ]
    order = PooledOrder(corpora, [Phase(0, quotas)], 0, 256)
    order.batch(order.start)
    first = time.perf_counter() - began
    middle = time.perf_counter()
    order.batch(order.at(3 * order.phases[0].steps_per_epoch(256) + 1_000_000))
    jump = time.perf_counter() - middle
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"samples": total, "quotas s": planned, "first batch s": first, "jump s": jump, "MiB": peak}


def show(rows: Sequence[Mapping[str, Any]], planning: Mapping[str, float], options: argparse.Namespace) -> None:
    """Print the tables, and JSON if asked for."""
    out = sys.stderr if options.json else sys.stdout
    if rows:
        columns = [name for name in rows[0] if name != "corpora"]
        print(f"{options.samples} samples in batches of {BATCH}, {os.cpu_count()} processors", file=out)
        print(f"{'corpora':>8}" + "".join(f"{name:>16}" for name in columns), file=out)
        for row in rows:
            print(f"{row['corpora']:8}" + "".join(f"{row[name]:16,.3g}" for name in columns), file=out)
    print(", ".join(f"{name} {value:,.3f}" for name, value in planning.items()), file=out)
    if options.json:
        print(json.dumps({"through": options.through, "rows": list(rows), "planning": planning}))


if __name__ == "__main__":
    sys.exit(main())
