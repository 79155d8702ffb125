"""Names that were recorded, and the samples of a split that they name.

What is kept of a sample is 16 bytes, so that the ids of large corpora fit. Where an index has no ids and its KEYs do
not tell them (tars made elsewhere that an earlier version indexed), they are read from the shard itself, once, when a
name is not found otherwise.
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
class Named:
    """What some names name of some samples."""

    missing: list[int]
    """Samples that no name is of."""
    again: list[str] = field(default_factory=list)
    """Names of samples that another name is of already."""
    elsewhere: list[str] = field(default_factory=list)
    """Names of other samples of the split."""
    unknown: list[str] = field(default_factory=list)
    """Names of no sample of the split."""

    @property
    def strays(self) -> int:
        """How many names name none of the samples."""
        return len(self.again) + len(self.elsewhere) + len(self.unknown)


class NamedSamples:
    """The samples of a split, by number and by name.

    Args:
        split_url: Directory or fsspec URL of the split.
        manifest: Its manifest.

    Raises:
        CorruptDataError: An index does not fit the manifest, or is not sound.
        StorageError: An index cannot be read.
    """

    def __init__(self, split_url: str, manifest: Manifest) -> None:
        self._split_url = split_url
        self._shards = manifest.shards
        self._table = ShardTable(manifest.shard_samples)
        self._keys = np.zeros(self._table.total, np.uint64)
        """[N] hash of each KEY."""
        self._ids = np.zeros(self._table.total, np.uint64)
        """[N] hash of each id; of the KEY, where an id is only told by it."""
        self._read = np.zeros(len(manifest.shards), bool)
        """[S] whether the ids of a shard are known, not only told by its KEYs."""
        self._everywhere: npt.NDArray[np.uint64] | None = None
        with ThreadPoolExecutor(_THREADS) as pool:
            # A few at a time: an index takes much more than what is kept of it.
            for first in range(0, len(self._shards), _THREADS):
                some = range(first, min(first + _THREADS, len(self._shards)))
                for shard, index in zip(some, pool.map(self._index, some), strict=True):
                    self._take(shard, index)

    def match(self, numbers: Int64Array, ids: Sequence[str], left_out: Sequence[str] = ()) -> Named:
        """Find out what names name of some samples.

        Args:
            numbers: [n] the samples that are expected.
            ids: Ids of samples.
            left_out: Names of samples that nobody decoded: ids, or KEYs where only those were known.
        """
        if len(ids) == len(numbers) and not left_out:
            hashes = np.fromiter(map(id_hash, ids), np.uint64, len(ids))
            if np.array_equal(np.sort(hashes), np.sort(self._ids[numbers])):
                return Named([])
        found = self._match(numbers, ids, left_out)
        # First where somebody is missed; then wherever a name may have been taken for another sample's.
        for candidates in (np.array(found.missing, np.int64), numbers):
            if found.strays and found.missing and self._learn(candidates):
                found = self._match(numbers, ids, left_out)
        return found

    def name(self, number: int) -> str:
        """What a sample is called, as far as its index tells."""
        (shard,), (place,) = self._table.locate(np.array([number], np.int64))
        return self._index(int(shard)).names[int(place)]

    def _match(self, numbers: Int64Array, ids: Sequence[str], left_out: Sequence[str]) -> Named:
        shards, _ = self._table.locate(numbers)
        own = list(zip(numbers.tolist(), self._ids[numbers].tolist(), self._keys[numbers].tolist(), strict=True))
        by_id, by_key, told = _Lookup(), _Lookup(), _Lookup()
        for (number, id_, key), read in zip(own, self._read[shards].tolist(), strict=True):
            by_id.add(id_, number)
            by_key.add(key, number)
            if not read:
                told.add(key, number)
        taken: set[int] = set()
        found = Named([])
        strays: list[str] = []
        for name in ids:
            if not (by_id.take(id_hash(name), taken) or told.take(id_hash(tar_key(name)), taken)):
                strays.append(name)
        for name in left_out:
            hashed, made = id_hash(name), id_hash(tar_key(name))
            if not (by_id.take(hashed, taken) or by_key.take(hashed, taken) or told.take(made, taken)):
                strays.append(name)
        for name in strays:
            hashed, made = id_hash(name), id_hash(tar_key(name))
            if hashed in by_id or hashed in by_key or made in told:
                found.again.append(name)
            elif self._is_somewhere(hashed) or self._is_somewhere(made):
                found.elsewhere.append(name)
            else:
                found.unknown.append(name)
        found.missing = [number for number, _, _ in own if number not in taken]
        return found

    def _is_somewhere(self, hashed: int) -> bool:
        if self._everywhere is None:
            self._everywhere = np.unique(np.concatenate([self._ids, self._keys]))
        place = int(np.searchsorted(self._everywhere, np.uint64(hashed)))
        return place < self._everywhere.size and int(self._everywhere[place]) == hashed

    def _learn(self, numbers: Int64Array) -> bool:
        """Read the ids of the shards of some samples that are only told by KEYs; whether there were any."""
        shards = [shard for shard in np.unique(self._table.locate(numbers)[0]).tolist() if not self._read[shard]]
        with ThreadPoolExecutor(_THREADS) as pool:
            for shard, ids in zip(shards, pool.map(self._read_ids, shards), strict=True):
                self._ids[self._numbers(shard)] = ids
                self._read[shard] = True
        if shards:
            self._everywhere = None
        return bool(shards)

    def _read_ids(self, shard: int) -> npt.NDArray[np.uint64]:
        url, name = storage.join(self._split_url, self._shards[shard].name), self._shards[shard].name
        stream = Stream(partial(storage.read_range, url), storage.size(url), storage.display(url))
        ids: list[str] = []

        def look(key: str, content: memoryview) -> str:
            ids.append(read_id(content, name, key))
            return key

        build_index(stream, storage.display(url), look)
        return self._hashes(shard, ids, storage.display(url))

    def _index(self, shard: int) -> ShardIndex:
        return load_index(storage.join(self._split_url, self._shards[shard].index.name))

    def _take(self, shard: int, index: ShardIndex) -> None:
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
                f"{len(names)} samples are there, the manifest says {expected}",
                where=where,
                remedy="find out what else is wrong with `ivr-dist verify`",
            )
        return np.fromiter(map(id_hash, names), np.uint64, expected)


class _Lookup(dict[int, list[int]]):
    """By hash: numbers of samples."""

    def add(self, hashed: int, number: int) -> None:
        self.setdefault(hashed, []).append(number)

    def take(self, hashed: int, taken: set[int]) -> bool:
        """Take a sample of this hash that is not taken yet; whether there is one."""
        free = next((number for number in self.get(hashed, ()) if number not in taken), None)
        if free is None:
            return False
        taken.add(free)
        return True
