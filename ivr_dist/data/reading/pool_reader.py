"""Random access to the samples of several splits, one of each corpus of a pool; see `SegmentReader`.

The samples of all corpora that are packed alike are decoded in one call, where there are several layouts for some
requests at once, so that the time for a request hardly depends on the number of corpora. Memory is bounded by the cache
for all corpora together, and by one request: requests are decoded together only if all their segments are pinned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.data.reading.fetcher import Fetcher
from ivr_dist.data.reading.segment_reader import PinnedRequest, ReadFailure, SegmentReader
from ivr_dist.data.reading.shard_indexes import SplitFiles
from ivr_dist.data.sample_order import Int64Array
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.member_layout import Kind, Layout
from ivr_dist.shards.sample_columns import Samples

PoolRequest = tuple[Int64Array, Int64Array]
"""[n] number of the corpus of each sample, and [n] number of the sample in its corpus (manifest order)."""

_DECODED_AT_ONCE = 8
"""Maximum number of requests, of one step each, that are decoded together where corpora differ in their layouts: a call
for the few samples of each layout in a step would take longer than they do."""


@dataclass(frozen=True)
class PoolResult:
    """Result of a request for n samples."""

    parts: Sequence[Samples]
    """The samples that could be read, those of one layout in each part."""
    part: Int64Array
    """[n] part that holds each sample."""
    rows: Int64Array
    """[n] row of each sample in its part; -1 where it could not be read."""
    failures: Mapping[int, ReadFailure] = field(default_factory=dict)
    """By place in the request: the samples that could not be read."""

    def between(self, first: int, end: int) -> PoolResult:
        """Return the result for the samples at places first..end-1 of the request."""
        failures = {place - first: failure for place, failure in self.failures.items() if first <= place < end}
        return PoolResult(self.parts, self.part[first:end], self.rows[first:end], failures)


class PoolReader(SegmentReader):
    """Reads samples of one split of each corpus; safe to use from several threads, and after a fork.

    Args:
        splits: By number of the corpus: directory or fsspec URL of its split, and the manifest.
        cache_bytes: Bytes of segments kept in memory, of all corpora together; the least recently used are evicted
            first. All segments of one request are in memory together, even beyond the limit.
        fetcher: Reads files; closed with the reader. None: one with the default policy.
    """

    def __init__(
        self, splits: Mapping[int, tuple[str, Manifest]], cache_bytes: int = 0, fetcher: Fetcher | None = None
    ) -> None:
        self.manifests = {number: manifest for number, (_, manifest) in splits.items()}
        """By number of the corpus."""
        layouts: dict[tuple[tuple[str, Kind], ...], Layout] = {}
        files = [
            SplitFiles(url, manifest, _shared_layout(Layout.of(manifest.features), layouts))
            for url, manifest in splits.values()
        ]
        self._layouts = {id(layout): layout for layout in layouts.values()}
        self._firsts = np.zeros(max(splits) + 1, np.int64)
        counts = [manifest.samples for manifest in self.manifests.values()]
        self._firsts[list(splits)] = np.cumsum(counts) - counts
        super().__init__(files, cache_bytes, fetcher)

    def read_ahead(self, requests: Iterable[PoolRequest]) -> Iterator[PoolResult]:
        """Read the samples of each request in turn, while those of the next ones are prefetched.

        Args:
            requests: The samples of each. The iterator is consumed ahead of the results.

        Returns:
            A result for each request.

        Raises:
            DataError, CorruptDataError, StorageError: An index cannot be read.
        """
        numbers_through_all = (self._firsts[corpus] + numbers for corpus, numbers in requests)
        most = 1 if len(self._layouts) == 1 else _DECODED_AT_ONCE
        for together in self._pinned_ahead(numbers_through_all, most):
            if len(together) == 1:
                yield self._result(together[0])
                continue
            result, first = self._result(PinnedRequest.joined(together)), 0
            for request in together:
                yield result.between(first, first + len(request))
                first += len(request)

    def lengths(self, corpus: Int64Array, numbers: Int64Array, modalities: Mapping[int, Collection[str]]) -> Int64Array:
        """Look up the time steps of the longest modality of each sample, at least 0; only the indexes are read.

        Args:
            corpus: [n] number of the corpus of each.
            numbers: [n] number of each in its corpus.
            modalities: By number of the corpus: the modalities that count.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read_ahead`.
        """
        counted = np.zeros((len(self._firsts), len(MODALITIES)), bool)
        for number, names in modalities.items():
            counted[number, [MODALITIES.index(name) for name in names]] = True
        stored = [shard.lengths[row] for shard, row in self._rows(self._firsts[corpus] + numbers)]
        lengths = np.array(stored, np.int64).reshape(len(numbers), len(MODALITIES))
        longest: Int64Array = np.where(counted[corpus], lengths, 0).max(axis=1, initial=0)
        return longest

    def names(self, corpus: Int64Array, numbers: Int64Array) -> list[str]:
        """Look up the name of each sample in its index: its id, or the KEY that `pack` derived from it.

        Raises:
            DataError, CorruptDataError, StorageError: As for `read_ahead`.
        """
        return [shard.names[row] for shard, row in self._rows(self._firsts[corpus] + numbers)]

    def _result(self, request: PinnedRequest) -> PoolResult:
        # A tar made elsewhere is decoded sample by sample, and must not slow down the other corpora.
        kinds = [(id(shard.split.layout), shard.is_as_packed) for shard in request.shards]
        distinct = dict.fromkeys(kinds)
        if len(distinct) == 1:
            groups: list[Sequence[int]] = [range(len(request))]
        else:
            groups = [[place for place, kind in enumerate(kinds) if kind == one] for one in distinct]
        parts: list[Samples] = []
        part, rows = np.zeros(len(request), np.int64), np.full(len(request), -1)
        failures: dict[int, ReadFailure] = {}
        for number, ((layout, _), places) in enumerate(zip(distinct, groups, strict=True)):
            own = request if len(groups) == 1 else request.part(places)
            samples, failed = self._decode(own, self._layouts[layout])
            parts.append(samples)
            part[places] = number
            kept = [place for nth, place in enumerate(places) if nth not in failed] if failed else places
            rows[kept] = np.arange(len(kept))
            failures |= {places[nth]: failure for nth, failure in failed.items()}
        return PoolResult(parts, part, rows, failures)


def _shared_layout(layout: Layout, layouts: dict[tuple[tuple[str, Kind], ...], Layout]) -> Layout:
    """Return the first layout of this kind."""
    return layouts.setdefault(tuple((member.modality, member.kind) for member in layout.members), layout)
