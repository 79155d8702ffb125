"""Splits of a run, opened for reading: manifest, shard reader and loader of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ivr_dist.config import Config, DataConfig
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.exclusions import NOTHING, Exclusions
from ivr_dist.data.loader import Loader
from ivr_dist.data.reading.fetcher import open_fetcher
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.data.reading.stream_reader import StreamReader
from ivr_dist.planning.plan import Plan
from ivr_dist.runtime import collectives, device
from ivr_dist.shards.manifest import Manifest
from ivr_dist.units import parse_bytes


@dataclass(frozen=True)
class Split:
    """An open split."""

    name: str
    """train, valid or test."""
    manifest: Manifest
    loader: Loader


def split_urls(config: Config) -> dict[str, str]:
    """Return the URLs of the splits that the config names, by name."""
    urls = {"train": config.data.train, "valid": config.data.valid, "test": config.data.test}
    return {name: url for name, url in urls.items() if url}


@contextmanager
def open_splits(
    config: Config,
    plan: Plan,
    manifests: dict[str, Manifest],
    spec: BatchSpec,
    note: Callable[[str], None],
    excluded: Mapping[str, Exclusions],
) -> Iterator[dict[str, Split]]:
    """Open a loader for each split that the config names; all are closed at the end.

    Args:
        config: The run's config.
        plan: Its plan.
        manifests: The manifest of each split.
        spec: Contents of the batches.
        note: Called with notes for the user.
        excluded: Samples that are left out, by split.
    """
    data = config.data
    with ExitStack() as stack:
        splits = {}
        for name, url in split_urls(config).items():
            reader = _open_reader(data, url, manifests[name], note)
            loader = Loader(
                reader,
                spec,
                global_batch=plan.global_batch,
                accumulation=plan.accumulation,
                lanes=plan.lanes,
                delay=plan.delay,
                seed=config.run.seed,
                rank=collectives.rank(),
                world=plan.world,
                prefetch=data.prefetch,
                by_length=data.by_length,
                skip=data.on_error == "skip",
                pin=device.available(),
                excluded=excluded.get(name, NOTHING),
            )
            splits[name] = Split(name, manifests[name], stack.enter_context(loader))
        yield splits


def _open_reader(data: DataConfig, url: str, manifest: Manifest, note: Callable[[str], None]) -> ShardReader:
    cache_bytes, fetcher = parse_bytes(data.cache_bytes), open_fetcher(data, note)
    if data.reader == "ranges":
        return ShardReader(url, manifest, cache_bytes, fetcher)
    note("data.reader=webdataset: shards are read whole by each worker, without checksums and without reading ahead")
    return StreamReader(url, manifest, cache_bytes, fetcher, data.pipe)
