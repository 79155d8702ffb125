"""A run on many workers simulated by the package's own pure functions: cost of the data order, and read amplification.

    python benchmarks/scale.py order         # a billion samples: CPU time of the next batch on every rank
    python benchmarks/scale.py reading       # bytes fetched for each byte that is needed, by workers and lanes

Nothing is started and nothing is read. `reading` follows some ranks over a number of steps, each with a cache of
`--cache-mb` for segments of `--segment-kb`. The cache is empty at first: more `--steps` come closer to a whole epoch.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from ivr_dist.config.lanes import default_delay, default_lanes
from ivr_dist.data.sample_order import EMPTY, EpochOrder, micro_slots, rank_slots

_WORLDS = (8, 64, 256, 1024)
_SHARD = 4000
"""Samples of a shard."""


def main() -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["order", "reading"])
    parser.add_argument("--worlds", nargs="+", type=int, default=list(_WORLDS))
    parser.add_argument("--per-worker", type=int, default=64, help="samples of a worker in a step")
    parser.add_argument("--samples", type=int, help="of the split; default: a billion for order, 8 million for reading")
    parser.add_argument("--sample-kb", type=float, default=22.0)
    parser.add_argument("--segment-kb", type=float, default=1024.0)
    parser.add_argument("--cache-mb", type=float, default=1024.0, help="of each worker")
    parser.add_argument("--steps", type=int, default=24)
    options = parser.parse_args()
    (order if options.what == "order" else reading)(options)
    return 0


def order(options: argparse.Namespace) -> None:
    """CPU time of the data order, which every rank computes for the whole global batch."""
    samples = options.samples or 10**9
    shards = np.full(samples // _SHARD, _SHARD, np.int64)
    print("workers     batch  lanes  made s  first batch s  next batch ms")
    for world in options.worlds:
        batch = world * options.per_worker
        lanes = default_lanes(batch)
        began = time.process_time()
        epoch = EpochOrder(shards, "scale", 0, 0, lanes, batch, 1000)
        made = time.process_time()
        first = min(1000, epoch.steps - options.steps - 1)
        epoch.batch(first)
        started = time.process_time()
        for step in range(first + 1, first + 1 + options.steps):
            epoch.batch(step)
        each = 1e3 * (time.process_time() - started) / options.steps
        print(f"{world:7} {batch:9} {lanes:6} {made - began:7.2f} {started - made:14.3f} {each:14.2f}", flush=True)


def reading(options: argparse.Namespace) -> None:
    """Bytes fetched for each byte needed: few lanes make many ranks read the same segments."""
    samples = options.samples or 8_000_000
    print("workers     batch  lanes  delay  fetched/needed  requests/step  MB/step")
    for world in options.worlds:
        batch = world * options.per_worker
        for lanes in sorted({default_lanes(batch), min(world, batch)}):
            delay = default_delay(samples, int(samples * options.sample_kb * 1024), lanes)
            fetched, needed = amplification(options, samples, world, lanes, delay)
            followed = options.steps * len(_followed(world))
            size = fetched * options.segment_kb / 1024 / followed
            in_segment = max(1, int(options.segment_kb / options.sample_kb))
            ratio = fetched * in_segment / needed
            print(
                f"{world:7} {batch:9} {lanes:6} {delay:6} {ratio:15.2f} {fetched / followed:14.2f} {size:8.2f}",
                flush=True,
            )


def _followed(world: int) -> list[int]:
    return sorted({0, world // 3, world // 2, world - 1})


def amplification(options: argparse.Namespace, samples: int, world: int, lanes: int, delay: int) -> tuple[int, int]:
    """Segments fetched and samples needed by the ranks that are followed."""
    batch = world * options.per_worker
    in_segment = max(1, int(options.segment_kb / options.sample_kb))
    limit = max(1, int(options.cache_mb * 1024 / options.segment_kb))
    epoch = EpochOrder(np.full(samples // _SHARD, _SHARD, np.int64), "scale", 0, 0, lanes, batch, delay)
    first = max(0, min(epoch.steps - options.steps, 1000))
    caches: dict[int, dict[int, int]] = {rank: {} for rank in _followed(world)}
    fetched = needed = 0
    for step in range(first, min(first + options.steps, epoch.steps)):
        numbers = epoch.batch(step)
        for rank, cache in caches.items():
            slots = rank_slots(micro_slots(batch, 1, 0), rank, world)
            own = numbers[slots.start : slots.stop]
            own = own[own != EMPTY]
            needed += len(own)
            for segment in np.unique(own // in_segment).tolist():
                fetched += segment not in cache
                cache[segment] = step
            for segment in sorted(cache, key=cache.__getitem__)[: max(0, len(cache) - limit)]:
                del cache[segment]
    return fetched, needed


if __name__ == "__main__":
    sys.exit(main())
