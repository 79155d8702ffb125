"""What a run leaves out, and which leaks it refuses: `data.exclude` and `data.mix.overlap`, before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ivr_dist import storage
from ivr_dist.config import Config
from ivr_dist.config.corpora import SplitKey, is_pool, split_urls, trained
from ivr_dist.data.exclude_list import SourceSplit, resolve_exclude_list
from ivr_dist.data.exclusions import Exclusions
from ivr_dist.data.overlap import Describe, HashedSplit, Overlaps, find_overlaps
from ivr_dist.errors import DataError
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.split_hashes import open_hashes

_THREADS = 8


@dataclass(frozen=True)
class LeftOut:
    """The samples that a run leaves out, with what the user should know about them."""

    splits: Mapping[str, Exclusions] = field(default_factory=dict)
    """By the text of the `SplitKey`, of those splits from which a sample is left out."""
    notes: Sequence[str] = ()
    """A sentence each."""
    leaks: Sequence[DataError] = ()
    """Errors with `data.mix.overlap=refuse`: training samples that another corpus of the pool is scored by."""

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each list, which identifies the run."""
        return {key: listed.digest for key, listed in self.splits.items()}


def find_left_out(config: Config, manifests: Mapping[str, Manifest], *, check: bool = True) -> LeftOut:
    """Find what a run leaves out; equal on all workers, since it follows from the config and the packed data.

    Of most runs nothing is read: only a list, or a pool whose overlaps are not allowed, needs the hashes of samples.

    Args:
        config: The run's config, with absolute paths.
        manifests: The manifest of each split that can be read.
        check: Whether leaks are looked for that only `data.mix.overlap=refuse` is interested in; a worker need not,
            since the driver has.

    Raises:
        DataError: An id of `data.exclude` is in no split, or nothing of a split remains.
        CorruptDataError: Hashes or indexes of a split are damaged.
        StorageError: They cannot be read.
    """
    urls = split_urls(config)
    excluded: dict[str, Exclusions] = {}
    notes: list[str] = []
    if config.data.exclude:
        resolved = resolve_exclude_list(
            config.data.exclude,
            {
                key: SourceSplit(SplitKey.parse(key).corpus or manifest.corpus, urls[key], manifest)
                for key, manifest in manifests.items()
            },
        )
        excluded = dict(resolved.splits)
        notes += resolved.describe(manifests)
    mode = config.data.mix.overlap
    if not is_pool(config) or mode == "allow" or (mode == "refuse" and not check):
        return LeftOut(excluded, notes)
    overlaps = find_pool_overlaps(config, manifests)
    if mode == "refuse":
        return LeftOut(excluded, notes, overlaps.errors)
    for name, copies in overlaps.dropped.items():
        key = str(SplitKey(name, "train"))
        notes.append(copies.describe(key, manifests[key].samples))
        excluded[key] = copies.excluded.union(excluded.get(key), manifests[key].id)
        if len(excluded[key]) == manifests[key].samples:
            raise DataError(
                f"data.mix.overlap=drop leaves out all {manifests[key].samples:,} samples of {key}",
                where=storage.display(urls[key]),
                remedy=f"leave {name} out of data.corpora, or give it an empty train: it is scored then",
            )
    return LeftOut(excluded, notes)


def left_out_by(config: Config) -> str:
    """Name the keys of a config that leave samples out."""
    drops = is_pool(config) and config.data.mix.overlap == "drop"
    return " and ".join([*(["data.exclude"] if config.data.exclude else []), *(["data.mix.overlap"] if drops else [])])


def find_pool_overlaps(config: Config, manifests: Mapping[str, Manifest], describe: Describe | None = None) -> Overlaps:
    """Compare the training splits of a pool with its scored splits, those of held-out corpora among them.

    Args:
        config: The run's config.
        manifests: The manifest of each split that can be read.
        describe: See `find_overlaps`.
    """
    urls = split_urls(config)
    keys = {key: SplitKey.parse(key) for key in manifests}
    trains = {*trained(config)}
    compared = [key for key, (corpus, split) in keys.items() if split != "train" or corpus in trains]
    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(lambda key: open_hashes(urls[key], manifests[key]), compared))
    splits = [
        HashedSplit(*keys[key], urls[key], manifests[key], table) for key, table in zip(compared, tables, strict=True)
    ]
    return find_overlaps(
        [split for split in splits if split.split == "train"],
        [split for split in splits if split.split != "train"],
        describe,
    )
