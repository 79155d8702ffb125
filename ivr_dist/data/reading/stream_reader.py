"""Sequential reader: samples from shards without range requests, whole tars front to back, through webdataset.

For files that are only available as a stream: the output of a command, or a server without range requests. The order is
that of `ShardReader`, so global batches, resuming and the audit are the same. Three guarantees are weaker: every worker
reads the whole of each shard that holds one of its samples, nothing is prefetched, and checksums are not verified. The
manifest and the indexes still have to be files.
"""

from __future__ import annotations

import shlex
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from ivr_dist import storage
from ivr_dist.common.library_errors import describe
from ivr_dist.data.reading.fetcher import REMEDY, Fetcher
from ivr_dist.data.reading.segment_reader import ReadFailure, joined
from ivr_dist.data.reading.shard_indexes import OpenShard
from ivr_dist.data.reading.shard_reader import ReadResult, ShardReader
from ivr_dist.data.sample_order import Int64Array
from ivr_dist.errors import CorruptDataError, DataError, IvrError, StorageError
from ivr_dist.shards.decode import decode_members
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_columns import Samples

Members = dict[str, bytes]
"""Contents of a sample's members by suffix."""

_MAX_STREAMS = 128
"""Maximum number of open streams, each of which may be a process and a connection."""


class StreamReader(ShardReader):
    """Reads samples of one packed split from streams; not safe to use from several threads.

    Args:
        split_url: Directory or fsspec URL of the split.
        manifest: The split's manifest.
        cache_bytes: Bytes of samples that were skipped on the way to requested ones. Beyond it the least recently used
            streams are closed; a closed stream is opened again when it is needed.
        fetcher: Reads the indexes; closed with the reader.
        pipe: Shell command whose output is a shard; `{}` stands for the shard's URL. Empty: the file is opened.
    """

    def __init__(
        self, split_url: str, manifest: Manifest, cache_bytes: int, fetcher: Fetcher | None = None, pipe: str = ""
    ) -> None:
        super().__init__(split_url, manifest, 0, fetcher)
        self._limit = cache_bytes
        self._pipe = pipe
        self._streams: OrderedDict[int, _Stream] = OrderedDict()

    @property
    def resident(self) -> int:
        """Bytes of skipped samples in memory."""
        return sum(stream.bytes for stream in self._streams.values())

    def read_ahead(self, requests: Iterable[Int64Array]) -> Iterator[ReadResult]:
        """Read the samples of each request in turn, without prefetching; see `ShardReader.read_ahead`."""
        self._after_fork()
        for numbers in requests:
            shards, rows = self._table.locate(numbers)
            opened = self._shards.get(shards.tolist())
            samples = zip(shards.tolist(), opened, rows.tolist(), strict=True)
            decoded = [self._read_one(number, shard, row) for number, shard, row in samples]
            yield ReadResult(*joined(decoded, self._layout))
            self._evict()

    def close(self) -> None:
        """Close all streams; may be called again."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        super().close()

    def _read_one(self, number: int, shard: OpenShard, row: int) -> Samples | ReadFailure:
        key = shard.keys[row]
        try:
            sample = decode_members(self._members(number, shard, key), shard.name, key, self.manifest.features)
            return Samples.of([sample], self._layout)
        except IvrError as error:
            return ReadFailure(shard.names[row], error)

    def _members(self, number: int, shard: OpenShard, key: str) -> Members:
        """Read the members of a sample; a stream that is past it is opened again."""
        for _ in range(2):
            stream = self._streams.pop(number, None) or _Stream(shard.url, self._pipe)
            self._streams[number] = stream
            members = stream.find(key)
            if members is not None:
                return members
            self._streams.pop(number).close()
        raise CorruptDataError(
            "the shard does not hold this sample", where=f"{storage.display(shard.url)}, sample {key}", remedy=REMEDY
        )

    def _evict(self) -> None:
        resident = self.resident
        while len(self._streams) > 1 and (resident > self._limit or len(self._streams) > _MAX_STREAMS):
            _, stream = self._streams.popitem(last=False)
            resident -= stream.bytes
            stream.close()


class _Stream:
    """One shard being read, with the samples that were skipped and not requested yet."""

    def __init__(self, url: str, pipe: str) -> None:
        self.bytes = 0
        self._url = url
        self._skipped: dict[str, tuple[Members, int]] = {}
        self._file = _opened(url, pipe)
        self._samples = _groups(self._file, url)

    def find(self, key: str) -> Members | None:
        """Read the members of a sample that was not requested before; None if the rest does not hold it."""
        skipped = self._skipped.pop(key, None)
        if skipped is not None:
            self.bytes -= skipped[1]
            return skipped[0]
        try:
            for sample in self._samples:
                members = {suffix: value for suffix, value in sample.items() if not suffix.startswith("__")}
                if sample["__key__"] == key:
                    return members
                size = sum(map(len, members.values()))
                self._skipped[sample["__key__"]] = (members, size)
                self.bytes += size
        except StorageError:
            raise
        except Exception as error:
            # tarfile and webdataset raise errors of many types; a failed command is an OSError of webdataset's.
            raise CorruptDataError(
                f"the shard cannot be read up to sample {key}: {describe(error)}",
                where=storage.display(self._url),
                remedy=f"check that data.pipe writes the whole file; otherwise {REMEDY}",
            ) from error
        return None

    def close(self) -> None:
        """End the command or the connection."""
        command = getattr(self._file, "proc", None)
        if command is not None:
            # Not by SIGTERM: workers on a private cluster have it blocked, and the commands they start inherit that.
            command.kill()
        # webdataset regards a command that was not read to its end as failed.
        with suppress(OSError):
            self._file.close()


def _opened(url: str, pipe: str) -> Any:
    """Open a shard at its beginning."""
    import webdataset

    if pipe:
        return webdataset.gopen("pipe:" + pipe.replace("{}", shlex.quote(url)))
    try:
        return storage.open_stream(url)
    except storage.NotFoundError as error:
        raise DataError("shard file is missing", where=storage.display(url), remedy=REMEDY) from error


def _groups(file: Any, url: str) -> Iterator[dict[str, Any]]:
    """Iterate over the samples of a tar as webdataset groups them."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    samples: Iterator[dict[str, Any]] = group_by_keys(tar_file_expander([{"url": url, "stream": file}]))
    return samples
