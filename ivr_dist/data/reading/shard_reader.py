"""Random access to the samples of one split by index, with prefetching; see `SegmentReader`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.data.reading.fetcher import Fetcher
from ivr_dist.data.reading.segment_cache import Segment
from ivr_dist.data.reading.segment_reader import ReadFailure, SegmentReader
from ivr_dist.data.reading.shard_indexes import SplitFiles
from ivr_dist.data.sample_order import Int64Array
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.member_layout import Layout
from ivr_dist.shards.sample_columns import Samples


@dataclass(frozen=True)
class StoredSample:
    """A sample that was read and verified, but not decoded."""

    key: str
    shard: str
    content: memoryview
    """Its tar members."""


@dataclass(frozen=True)
class ReadResult:
    """Result of a request."""

    samples: Samples
    """Samples that could be read, in the order of the request."""
    failures: Mapping[int, ReadFailure] = field(default_factory=dict)
    """The other ones, by their row in the request, ascending."""

    def all_or_raise(self) -> Samples:
        """Return all samples of the request.

        Raises:
            DataError, CorruptDataError, StorageError: The error of the first sample that could not be read.
        """
        for each in self.failures.values():
            raise each.error
        return self.samples


class ShardReader(SegmentReader):
    """Reads samples of one packed split; safe to use from several threads, and after a fork.

    Args:
        split_url: Directory or fsspec URL of the split.
        manifest: The split's manifest.
        cache_bytes: Bytes of segments kept in memory; the least recently used are evicted first. All segments of one
            request are in memory together, even beyond the limit.
        fetcher: Reads files; closed with the reader. None: one with the default policy.
    """

    def __init__(
        self, split_url: str, manifest: Manifest, cache_bytes: int = 0, fetcher: Fetcher | None = None
    ) -> None:
        self.split_url = split_url
        self.manifest = manifest
        self._layout = Layout.of(manifest.features)
        super().__init__([SplitFiles(split_url, manifest, self._layout)], cache_bytes, fetcher)

    def read(self, numbers: Int64Array) -> Samples:
        """Read the samples with these numbers (manifest order, 0..samples-1), in the order given.

        Raises:
            DataError: A shard or index file is missing.
            CorruptDataError: Bytes do not match their checksum, index or layout; names shard and sample.
            StorageError: Storage failed.
        """
        (result,) = self.read_ahead([numbers])
        return result.all_or_raise()

    def read_ahead(self, requests: Iterable[Int64Array]) -> Iterator[ReadResult]:
        """Read the samples of each request in turn, while those of the next ones are prefetched.

        Args:
            requests: Numbers of samples, as for `read`. The iterator is consumed ahead of the results.

        Returns:
            A result for each request.

        Raises:
            DataError, CorruptDataError, StorageError: An index cannot be read.
        """
        for (request,) in self._pinned_ahead(requests):
            yield ReadResult(*self._decode(request, self._layout))

    def stored(self, numbers: Int64Array) -> list[StoredSample]:
        """Read samples like `read`, without decoding them."""
        self._after_fork()
        shards, rows = self._table.locate(numbers)
        request = self._pin(shards, rows)
        try:
            samples = []
            for shard, row, segment in request:
                start, end = shard.bounds(row)
                samples.append(StoredSample(shard.keys[row], shard.name, segment.data()[start:end]))
            return samples
        finally:
            self._segments.unpin(request.pinned)

    def lengths(self, numbers: Int64Array, modalities: Collection[str]) -> Int64Array:
        """Look up the time steps of the longest of these modalities of each sample, at least 0.

        Only the indexes are read.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read`.
        """
        columns = [MODALITIES.index(name) for name in modalities]
        lengths = [shard.lengths[row, columns] for shard, row in self._rows(numbers)]
        longest: Int64Array = np.array(lengths, np.int64).reshape(len(lengths), len(columns)).max(axis=1, initial=0)
        return longest

    def names(self, numbers: Int64Array) -> list[str]:
        """Look up the name of each sample in its index: its id, or the KEY that `pack` derived from it.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read`.
        """
        return [shard.names[row] for shard, row in self._rows(numbers)]

    def extents(self, numbers: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Look up shard, segment in the shard, and bytes of each sample; only the indexes are read.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read`.
        """
        opened = self._rows(numbers)
        shards, _ = self._table.locate(numbers)
        segments = [shard.segments[row] for shard, row in opened]
        sizes = [shard.sizes[row] for shard, row in opened]
        return shards, np.array(segments, np.int64), np.array(sizes, np.int64)

    def segment_bytes(self, segment: Segment) -> int:
        """Look up the bytes of a segment."""
        number, part = segment
        (shard,) = self._shards.iterate([number])
        return shard.ends[part] - shard.starts[part]
