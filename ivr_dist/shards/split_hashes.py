"""Hashes of the samples of a packed split: from the file that `pack` wrote, or computed from the shards.

Splits that were packed before there was such a file are read: the indexes where ids suffice, else every tar once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.shards.decode import decode_with_json
from ivr_dist.shards.index import ShardIndex, build_index
from ivr_dist.shards.index import load as load_index
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_hashes import HashRows, HashTable, hashes_of, name_hash
from ivr_dist.shards.sample_ids import tar_key
from ivr_dist.shards.shard_table import ShardEntry
from ivr_dist.shards.tar import Stream

logger = logging.getLogger(__name__)

T = TypeVar("T")
Int64Array = npt.NDArray[np.int64]
_THREADS = 4


def open_hashes(
    split_url: str, manifest: Manifest, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> HashTable:
    """Open the hashes of a split; those of a split without the file are computed, for which its tars are read.

    Args:
        split_url: Directory or URL of the split.
        manifest: Its manifest.
        on_progress: Called with the samples read and their total, while hashes are computed.

    Raises:
        DataError: The file that the manifest names is missing.
        CorruptDataError: The file, or a shard, is damaged.
        StorageError: It cannot be read.
    """
    if manifest.hashes is not None:
        return HashTable.open(split_url, manifest.hashes)
    logger.warning(
        "%s was packed without hashes of its samples, so every shard of it is read; pack it again to add them",
        storage.display(split_url),
    )
    return HashRows.of(compute_hashes(split_url, manifest, on_progress)).table()


def compute_hashes(
    split_url: str, manifest: Manifest, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> npt.NDArray[np.uint64]:
    """Hash the samples of a split as `pack` does, [N, 3]; its tars are read once, a few MiB at a time."""
    parts = []
    done = 0
    for part in _each_shard(partial(_hash_shard, split_url, manifest.corpus), manifest.shards):
        parts.append(part)
        done += len(part)
        on_progress(done, manifest.samples)
    return np.concatenate([np.zeros((0, 3), np.uint64), *parts])


def find_ids(split_url: str, manifest: Manifest, ids: Sequence[str]) -> list[Int64Array]:
    """Look up samples by id.

    Args:
        split_url: Directory or URL of the split.
        manifest: Its manifest.
        ids: Distinct ids.

    Returns:
        For each id the numbers of its samples, ascending; none where the split does not have it.
    """
    if manifest.hashes is not None:
        return _by_hash(HashTable.open(split_url, manifest.hashes), manifest.corpus, ids)
    found: list[list[int]] = [[] for _ in ids]
    positions = {id_: position for position, id_ in enumerate(ids)}
    # Indexes of older versions have KEYs only, which `pack` derives from ids.
    keys = {tar_key(id_): position for id_, position in positions.items()}
    start, complete = 0, True
    for index in _each_shard(partial(_load_index, split_url), manifest.shards):
        lookup = positions if index.ids is not None else keys
        complete &= index.ids is not None
        for number, name in enumerate(index.names, start):
            if name in lookup:
                found[lookup[name]].append(number)
        start += len(index.keys)
    if not complete and not all(found):
        # In tars made elsewhere, KEYs may have nothing to do with ids.
        return _by_hash(open_hashes(split_url, manifest), manifest.corpus, ids)
    return [np.array(numbers, np.int64) for numbers in found]


def first_ids(split_url: str, manifest: Manifest, most: int) -> list[str]:
    """Read the first ids of a split from its indexes, for suggestions."""
    ids: list[str] = []
    for shard in manifest.shards:
        if len(ids) >= most:
            break
        ids += _load_index(split_url, shard).names
    return ids[:most]


def _by_hash(table: HashTable, corpus: str, ids: Sequence[str]) -> list[Int64Array]:
    hashes = np.array([name_hash(id_, corpus) for id_ in ids], np.uint64)
    matched, numbers = table.find("id", np.unique(hashes))
    first = np.searchsorted(matched, hashes, side="left")
    end = np.searchsorted(matched, hashes, side="right")
    return [numbers[one:other] for one, other in zip(first.tolist(), end.tolist(), strict=True)]


def _each_shard(read: Callable[[ShardEntry], T], shards: Sequence[ShardEntry]) -> Iterator[T]:
    """Read all shards in their order, a few at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(shards), _THREADS):
            yield from pool.map(read, shards[first : first + _THREADS])


def _load_index(split_url: str, shard: ShardEntry) -> ShardIndex:
    return load_index(storage.join(split_url, shard.index.name))


def _hash_shard(split_url: str, corpus: str, shard: ShardEntry) -> npt.NDArray[np.uint64]:
    url = storage.join(split_url, shard.name)
    stream = Stream(partial(storage.read_range, url), storage.size(url), storage.display(url))
    hashes: list[tuple[int, int, int]] = []

    def add_sample(key: str, content: memoryview) -> str:
        sample, metadata = decode_with_json(content, shard.name, key, ())
        hashes.append(hashes_of(metadata, sample.id, corpus))
        return sample.id

    build_index(stream, storage.display(url), add_sample)
    return np.array(hashes, np.uint64).reshape(-1, 3)
