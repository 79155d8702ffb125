"""Matching of ids in a ledger with the samples of a split.

A sample takes 16 bytes of memory (two hashes), so that the ids of large corpora fit. If an index has no ids and they do
not follow from its KEYs (foreign tars that an earlier version indexed), they are read from the shard itself, once, when
a name cannot be matched otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.data.sample_order import Int64Array, ShardTable
from ivr_dist.errors import CorruptDataError
from ivr_dist.shards.decode import read_id
from ivr_dist.shards.index import ShardIndex, build_index
from ivr_dist.shards.index import load as load_index
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_ids import id_hash, tar_key
from ivr_dist.shards.tar import Stream

_THREADS = 8


@dataclass
class Match:
    """Result of matching names with samples."""

    missing: list[int]
    """Samples without a name."""
    again: list[str] = field(default_factory=list)
    """Names of samples that were matched by another name already."""
    elsewhere: list[str] = field(default_factory=list)
    """Names of other samples of the split."""
    unknown: list[str] = field(default_factory=list)
    """Names of no sample of the split."""

    @property
    def strays(self) -> int:
        """Number of names that match no sample."""
        return len(self.again) + len(self.elsewhere) + len(self.unknown)


class SampleNames:
    """Ids and KEYs of the samples of a split.

    Args:
        split_url: Directory or fsspec URL of the split.
        manifest: Its manifest.

    Raises:
        CorruptDataError: An index is damaged or differs from the manifest.
        StorageError: An index cannot be read.
    """

    def __init__(self, split_url: str, manifest: Manifest) -> None:
        self._split_url = split_url
        self._shards = manifest.shards
        self._table = ShardTable(manifest.shard_samples)
        self._keys = np.zeros(self._table.total, np.uint64)
        """[N] hash of each KEY."""
        self._ids = np.zeros(self._table.total, np.uint64)
        """[N] hash of each id; of the KEY, if the id is only known by its KEY."""
        self._read = np.zeros(len(manifest.shards), bool)
        """[S] whether the ids of a shard are known, not only its KEYs."""
        self._all_hashes: npt.NDArray[np.uint64] | None = None
        with ThreadPoolExecutor(_THREADS) as pool:
            # In small groups: an index takes much more memory than the hashes that are kept.
            for first in range(0, len(self._shards), _THREADS):
                some = range(first, min(first + _THREADS, len(self._shards)))
                for shard, index in zip(some, pool.map(self._index, some), strict=True):
                    self._store(shard, index)

    def match(self, numbers: Int64Array, ids: Sequence[str], skipped: Sequence[str] = ()) -> Match:
        """Match recorded names with the samples of a step.

        Args:
            numbers: [n] the samples of the step.
            ids: Recorded ids of samples that were trained on.
            skipped: Recorded names of samples that were skipped: ids, or KEYs if only those were known.
        """
        if len(ids) == len(numbers) and not skipped:
            hashes = np.fromiter(map(id_hash, ids), np.uint64, len(ids))
            if np.array_equal(np.sort(hashes), np.sort(self._ids[numbers])):
                return Match([])
        match = self._match(numbers, ids, skipped)
        # First read the shards of missing samples; then all, in case a name was matched with another sample.
        for candidates in (np.array(match.missing, np.int64), numbers):
            if match.strays and match.missing and self._read_missing_ids(candidates):
                match = self._match(numbers, ids, skipped)
        return match

    def name(self, number: int) -> str:
        """Return the id of a sample, or its KEY if its index has no ids."""
        (shard,), (row,) = self._table.locate(np.array([number], np.int64))
        return self._index(int(shard)).names[int(row)]

    def _match(self, numbers: Int64Array, ids: Sequence[str], skipped: Sequence[str]) -> Match:
        shards, _ = self._table.locate(numbers)
        own = list(zip(numbers.tolist(), self._ids[numbers].tolist(), self._keys[numbers].tolist(), strict=True))
        by_id, by_key, by_key_only = _Lookup(), _Lookup(), _Lookup()
        for (number, id_, key), has_ids in zip(own, self._read[shards].tolist(), strict=True):
            by_id.add(id_, number)
            by_key.add(key, number)
            if not has_ids:
                by_key_only.add(key, number)
        taken: set[int] = set()
        match = Match([])
        strays: list[str] = []
        for name in ids:
            if not (by_id.take(id_hash(name), taken) or by_key_only.take(id_hash(tar_key(name)), taken)):
                strays.append(name)
        for name in skipped:
            hashed, key_hash = id_hash(name), id_hash(tar_key(name))
            if not (by_id.take(hashed, taken) or by_key.take(hashed, taken) or by_key_only.take(key_hash, taken)):
                strays.append(name)
        for name in strays:
            hashed, key_hash = id_hash(name), id_hash(tar_key(name))
            if hashed in by_id or hashed in by_key or key_hash in by_key_only:
                match.again.append(name)
            elif self._is_in_split(hashed) or self._is_in_split(key_hash):
                match.elsewhere.append(name)
            else:
                match.unknown.append(name)
        match.missing = [number for number, _, _ in own if number not in taken]
        return match

    def _is_in_split(self, hashed: int) -> bool:
        if self._all_hashes is None:
            self._all_hashes = np.unique(np.concatenate([self._ids, self._keys]))
        position = int(np.searchsorted(self._all_hashes, np.uint64(hashed)))
        return position < self._all_hashes.size and int(self._all_hashes[position]) == hashed

    def _read_missing_ids(self, numbers: Int64Array) -> bool:
        """Read the ids of the shards of some samples from the tars, if they are unknown; return whether any were."""
        shards = [shard for shard in np.unique(self._table.locate(numbers)[0]).tolist() if not self._read[shard]]
        with ThreadPoolExecutor(_THREADS) as pool:
            for shard, ids in zip(shards, pool.map(self._read_ids, shards), strict=True):
                self._ids[self._numbers(shard)] = ids
                self._read[shard] = True
        if shards:
            self._all_hashes = None
        return bool(shards)

    def _read_ids(self, shard: int) -> npt.NDArray[np.uint64]:
        url, name = storage.join(self._split_url, self._shards[shard].name), self._shards[shard].name
        stream = Stream(partial(storage.read_range, url), storage.size(url), storage.display(url))
        ids: list[str] = []

        def collect_id(key: str, content: memoryview) -> str:
            ids.append(read_id(content, name, key))
            return key

        build_index(stream, storage.display(url), collect_id)
        return self._hashes(shard, ids, storage.display(url))

    def _index(self, shard: int) -> ShardIndex:
        return load_index(storage.join(self._split_url, self._shards[shard].index.name))

    def _store(self, shard: int, index: ShardIndex) -> None:
        where = storage.display(storage.join(self._split_url, self._shards[shard].index.name))
        numbers = self._numbers(shard)
        self._keys[numbers] = self._hashes(shard, index.keys, where)
        self._ids[numbers] = self._hashes(shard, index.names, where)
        self._read[shard] = index.ids is not None

    def _numbers(self, shard: int) -> slice:
        return slice(int(self._table.starts[shard]), int(self._table.starts[shard + 1]))

    def _hashes(self, shard: int, names: Sequence[str], where: str) -> npt.NDArray[np.uint64]:
        expected = self._shards[shard].samples
        if len(names) != expected:
            raise CorruptDataError(
                f"the index has {len(names)} samples, the manifest says {expected}",
                where=where,
                remedy="list all problems with `ivr-dist verify`",
            )
        return np.fromiter(map(id_hash, names), np.uint64, expected)


class _Lookup(dict[int, list[int]]):
    """Positions of samples by hash."""

    def add(self, hashed: int, number: int) -> None:
        self.setdefault(hashed, []).append(number)

    def take(self, hashed: int, taken: set[int]) -> bool:
        """Take a sample with this hash that is not taken yet; return whether there is one."""
        free = next((number for number in self.get(hashed, ()) if number not in taken), None)
        if free is None:
            return False
        taken.add(free)
        return True
