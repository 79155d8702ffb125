"""Samples from shards that cannot be read in ranges: whole tars, front to back, through the webdataset library.

For what gives a file only as a stream: a command's output, a server that knows no ranges. The order is that of
`ShardReader`, so global batches, resuming and the audit are the same. What is weaker: every worker reads each shard
that holds a sample of it as a whole, nothing is read ahead, and no checksum is compared. The manifest and the indexes
are files all the same.
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
from ivr_dist.data.reading.shard_indexes import OpenShard
from ivr_dist.data.reading.shard_reader import ReadFailure, ReadResult, ShardReader
from ivr_dist.data.sample_order import Int64Array
from ivr_dist.errors import CorruptDataError, DataError, IvrError, StorageError
from ivr_dist.shards.decode import decode_members
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_columns import Samples

Members = dict[str, bytes]
"""By suffix: the content of a sample's member."""

_MOST_OPEN = 128
"""Streams that may be under way, whatever is in memory: each may be a process and a connection."""


class StreamReader(ShardReader):
    """Reads samples of one packed split from streams; not safe to use from several threads.

    Args:
        split_url: Directory or fsspec URL of the split.
        manifest: The split's manifest.
        cache_bytes: Of samples that were passed on the way to those asked for, after which streams are closed, the one
            that was used longest ago first. It is begun again if it is needed again.
        fetcher: Reads the indexes; closed with the reader.
        pipe: Shell command whose output is a shard; `{}` in it stands for the shard's place. Empty: the file is opened.
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
        """Bytes of samples that were passed."""
        return sum(stream.bytes for stream in self._streams.values())

    def read_ahead(self, requests: Iterable[Int64Array]) -> Iterator[ReadResult]:
        """The samples of each request in turn; see `ShardReader.read_ahead`. Nothing is read before it is asked for."""
        self._after_fork()
        for numbers in requests:
            shards, places = self._table.locate(numbers)
            opened = self._shards.get(shards.tolist())
            where = zip(shards.tolist(), opened, places.tolist(), strict=True)
            yield self._one_by_one([self._found(number, shard, place) for number, shard, place in where])
            self._make_room()

    def close(self) -> None:
        """Close all streams; may be called again."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        super().close()

    def _found(self, number: int, shard: OpenShard, place: int) -> Samples | ReadFailure:
        key = shard.keys[place]
        try:
            sample = decode_members(self._members(number, shard, key), shard.name, key, self.manifest.features)
            return Samples.of([sample], self._layout)
        except IvrError as error:
            return ReadFailure(shard.names[place], error)

    def _members(self, number: int, shard: OpenShard, key: str) -> Members:
        """Those of a sample; a stream that has passed it is begun again."""
        for _ in range(2):
            stream = self._streams.pop(number, None) or _Stream(shard.url, self._pipe)
            self._streams[number] = stream
            found = stream.find(key)
            if found is not None:
                return found
            self._streams.pop(number).close()
        raise CorruptDataError(
            "the shard does not hold this sample", where=f"{storage.display(shard.url)}, sample {key}", remedy=REMEDY
        )

    def _make_room(self) -> None:
        held = self.resident
        while len(self._streams) > 1 and (held > self._limit or len(self._streams) > _MOST_OPEN):
            _, stream = self._streams.popitem(last=False)
            held -= stream.bytes
            stream.close()


class _Stream:
    """One shard on its way, with the samples that were passed and not asked for yet."""

    def __init__(self, url: str, pipe: str) -> None:
        self.bytes = 0
        self._url = url
        self._passed: dict[str, tuple[Members, int]] = {}
        self._file = _opened(url, pipe)
        self._samples = _groups(self._file, url)

    def find(self, key: str) -> Members | None:
        """The members of a sample that was not asked for before; None if it is not there."""
        found = self._passed.pop(key, None)
        if found is not None:
            self.bytes -= found[1]
            return found[0]
        try:
            for sample in self._samples:
                members = {suffix: value for suffix, value in sample.items() if not suffix.startswith("__")}
                if sample["__key__"] == key:
                    return members
                size = sum(map(len, members.values()))
                self._passed[sample["__key__"]] = (members, size)
                self.bytes += size
        except StorageError:
            raise
        except Exception as error:
            # tarfile and webdataset raise what they like; a command that fails is an OSError of webdataset's.
            raise CorruptDataError(
                f"the shard cannot be read to sample {key}: {describe(error)}",
                where=storage.display(self._url),
                remedy=f"see whether data.pipe gives the whole file; else {REMEDY}",
            ) from error
        return None

    def close(self) -> None:
        """End the command or the connection."""
        command = getattr(self._file, "proc", None)
        if command is not None:
            # Not by SIGTERM: workers on a cluster of our own have it blocked, and so have the commands they start.
            command.kill()
        # A command that was not read to its end has failed, in webdataset's eyes.
        with suppress(OSError):
            self._file.close()


def _opened(url: str, pipe: str) -> Any:
    """A shard from its beginning."""
    import webdataset

    if pipe:
        return webdataset.gopen("pipe:" + pipe.replace("{}", shlex.quote(url)))
    try:
        return storage.open_stream(url)
    except storage.NotFoundError as error:
        raise DataError("shard file is missing", where=storage.display(url), remedy=REMEDY) from error


def _groups(file: Any, url: str) -> Iterator[dict[str, Any]]:
    """Samples as webdataset makes them of a tar."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    found: Iterator[dict[str, Any]] = group_by_keys(tar_file_expander([{"url": url, "stream": file}]))
    return found
