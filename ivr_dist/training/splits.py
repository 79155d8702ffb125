"""Splits of a run, opened for reading: the loader of the training data, and one for each split that is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ivr_dist.config import Config, DataConfig
from ivr_dist.config.corpora import SplitKey, split_urls
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.batches.pool_spec import PoolSpec
from ivr_dist.data.exclusions import NOTHING, Exclusions
from ivr_dist.data.loader import Loader
from ivr_dist.data.pooled_loader import PooledLoader, PooledSplitLoader
from ivr_dist.data.reading.fetcher import open_fetcher
from ivr_dist.data.reading.pool_reader import PoolReader
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.data.reading.stream_reader import StreamReader
from ivr_dist.data.run_order import RunOrder
from ivr_dist.planning.plan import Plan
from ivr_dist.planning.pool_layout import CorpusLayout
from ivr_dist.runtime import collectives, device
from ivr_dist.shards.manifest import Manifest
from ivr_dist.units import parse_bytes


@dataclass(frozen=True)
class ScoredSplit:
    """An open split that is scored."""

    split: str
    """valid or test."""
    key: str
    """The text of its `SplitKey`: `valid`, or `mosi/valid`."""
    manifest: Manifest
    loader: Loader | PooledSplitLoader
    corpus: CorpusLayout | None = None
    """Its corpus, in a pool."""

    @property
    def corpus_name(self) -> str:
        """Name of its corpus in metrics."""
        return SplitKey.parse(self.key).corpus or self.manifest.corpus


@dataclass(frozen=True)
class RunSplits:
    """All open splits of a run."""

    train: Loader | PooledLoader
    scored: Sequence[ScoredSplit]

    def of(self, split: str) -> list[ScoredSplit]:
        """Return the splits of one name, valid or test, of all corpora."""
        return [each for each in self.scored if each.split == split]


@contextmanager
def open_splits(
    config: Config,
    plan: Plan,
    manifests: Mapping[str, Manifest],
    spec: BatchSpec | PoolSpec,
    order: RunOrder[Any],
    note: Callable[[str], None],
    excluded: Mapping[str, Exclusions],
) -> Iterator[RunSplits]:
    """Open a loader for each split that the config names; all are closed at the end.

    Args:
        config: The run's config.
        plan: Its plan.
        manifests: The manifest of each split.
        spec: Contents of the batches.
        order: Order of the training data.
        note: Called with notes for the user.
        excluded: Samples that are left out, by split.
    """
    with ExitStack() as stack:
        if isinstance(spec, PoolSpec):
            yield _pool(config, plan, manifests, spec, order, note, excluded, stack)
        else:
            yield _one_corpus(config, plan, manifests, spec, note, excluded, stack)


def _one_corpus(
    config: Config,
    plan: Plan,
    manifests: Mapping[str, Manifest],
    spec: BatchSpec,
    note: Callable[[str], None],
    excluded: Mapping[str, Exclusions],
    stack: ExitStack,
) -> RunSplits:
    data = config.data
    loaders: dict[str, tuple[str, Manifest, Loader]] = {}
    for name, url in split_urls(config).items():
        reader = open_reader(data, url, manifests[name], note)
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
        loaders[SplitKey.parse(name).split] = name, manifests[name], stack.enter_context(loader)
    scored = [ScoredSplit(split, *loader) for split, loader in loaders.items() if split != "train"]
    return RunSplits(loaders["train"][2], scored)


def _pool(
    config: Config,
    plan: Plan,
    manifests: Mapping[str, Manifest],
    spec: PoolSpec,
    order: RunOrder[Any],
    note: Callable[[str], None],
    excluded: Mapping[str, Exclusions],
    stack: ExitStack,
) -> RunSplits:
    data, layout = config.data, spec.layout
    urls = {SplitKey.parse(name): url for name, url in split_urls(config).items()}
    train_keys = [key for key in urls if key.split == "train"]
    # All training splits share one cache; a split that is scored has its own, which is empty outside evaluations.
    numbers = {key: layout.number(key.corpus) for key in urls}
    files = {numbers[key]: (urls[key], manifests[str(key)]) for key in train_keys}
    left_out = {numbers[key]: excluded[str(key)] for key in train_keys if str(key) in excluded}
    train = PooledLoader(
        PoolReader(files, parse_bytes(data.cache_bytes), open_fetcher(data, note)),
        spec,
        order,
        accumulation=plan.accumulation,
        rank=collectives.rank(),
        world=plan.world,
        prefetch=data.prefetch,
        by_length=data.by_length,
        skip=data.on_error == "skip",
        pin=device.available(),
        excluded=left_out,
    )
    stack.enter_context(train)
    # Metrics are computed in the range of each corpus.
    native = replace(spec, layout=replace(layout, scale="native"))
    scored = []
    for key in [key for key in urls if key.split != "train"]:
        reader = ShardReader(urls[key], manifests[str(key)], 0, open_fetcher(data, note))
        loader = PooledSplitLoader(
            reader,
            native,
            numbers[key],
            # As large as a micro-step, which fits into memory.
            batch=plan.global_batch // plan.accumulation,
            rank=collectives.rank(),
            world=plan.world,
            prefetch=data.prefetch * plan.accumulation,
            pin=device.available(),
            excluded=excluded.get(str(key), NOTHING),
        )
        corpus = layout.corpora[numbers[key]]
        scored.append(ScoredSplit(key.split, str(key), manifests[str(key)], stack.enter_context(loader), corpus))
    return RunSplits(train, scored)


def open_reader(data: DataConfig, url: str, manifest: Manifest, note: Callable[[str], None]) -> ShardReader:
    """Open the reader of one split, with the cache and the kind of reader that a config asks for."""
    cache_bytes, fetcher = parse_bytes(data.cache_bytes), open_fetcher(data, note)
    if data.reader == "ranges":
        return ShardReader(url, manifest, cache_bytes, fetcher)
    note("data.reader=webdataset: shards are read whole by each worker, without checksums and without reading ahead")
    return StreamReader(url, manifest, cache_bytes, fetcher, data.pipe)
