"""Shard writer: a range of a split's samples in packing order becomes a tar with an index and statistics."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ivr_dist import __version__, storage
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.common.strict_json import finite
from ivr_dist.corpora.source import Array, Opener, Prepared, SampleRef, Source, SourceSample, prepare
from ivr_dist.packing.shard_statistics import ShardStatistics
from ivr_dist.packing.worker_pool import OnProgress
from ivr_dist.shards import npy
from ivr_dist.shards.index import IndexBuilder
from ivr_dist.shards.sample_hashes import hashes_of
from ivr_dist.shards.sample_ids import tar_key, utf8
from ivr_dist.shards.shard_table import IndexEntry, ShardEntry
from ivr_dist.shards.specs import FeatureSpec
from ivr_dist.shards.tar import BLOCK, InMemory, TarWriter, padded

RECORDS = ".pack"
"""Folder in a split's folder while the split is packed, with a record of every shard that is written."""

_MAX_MEASURED = 256
"""Samples whose size is measured, at most, to choose the number of samples of a shard."""
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)

Content = tuple[bytes | memoryview, ...]
"""The content of a tar member, in parts."""


@dataclass(frozen=True)
class ShardJob:
    """A shard to make."""

    split: str
    name: str
    """Name of its files, without suffix."""
    first: int
    """Position of its first sample in packing order."""
    end: int
    """Position of the first sample after it."""
    split_url: str | None = None
    """URL of the split, to which the shard is written; None: it is only described."""
    fingerprint: str | None = None
    """Fingerprint of everything that determines its bytes; None: no record of it is written."""


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard."""

    entry: ShardEntry
    statistics: ShardStatistics
    hashes: npt.NDArray[np.uint64] = field(repr=False, compare=False)
    """[n, 3] hashes of id, group and text of each sample; see `shards.sample_hashes`."""

    def to_bytes(self, fingerprint: str) -> bytes:
        """Encode as a file from which another run can reuse the shard."""
        content = {
            "fingerprint": fingerprint,
            "shard": asdict(self.entry),
            "tally": self.statistics.to_json(),
            "hashes": b64encode(self.hashes.astype("<u8").tobytes()).decode(),
        }
        return _JSON.encode(content).encode()

    @classmethod
    def from_bytes(cls, data: bytes, fingerprint: str, features: Mapping[str, FeatureSpec]) -> ShardRecord | None:
        """Decode the result of `to_bytes`; None if the fingerprint differs or the record is incomplete."""
        try:
            content = json.loads(data)
            if content["fingerprint"] != fingerprint:
                return None
            shard = content["shard"]
            entry = ShardEntry(**{**shard, "index": IndexEntry(**shard["index"])})
            hashes = np.frombuffer(b64decode(content["hashes"]), "<u8").reshape(entry.samples, -1)
            return cls(entry, ShardStatistics.from_json(content["tally"], features), hashes)
        except (ValueError, KeyError, TypeError):
            return None


class OpenCorpus:
    """An open source, and its samples in packing order.

    Args:
        source: The corpus.
        seed: Seed of the order.
    """

    def __init__(self, source: Source, seed: int) -> None:
        self.name = source.corpus
        self.features = source.features
        self._source = source
        self._seed = seed
        self._order: dict[str, list[SampleRef]] = {}

    def order(self, split: str) -> list[SampleRef]:
        """List all samples of a split in packing order."""
        if split not in self._order:
            self._order[split] = shuffled(self._source.splits()[split], self._seed)
        return self._order[split]

    def load(self, split: str, ref: SampleRef) -> tuple[SourceSample, Prepared]:
        """Load a sample, and convert its arrays to the stored types."""
        sample = self._source.load(split, ref)
        return sample, prepare(sample, self.features)

    def encoded_bytes(self, split: str, position: int) -> int:
        """Count the bytes of a sample in a tar, headers and padding included."""
        members = encode(*self.load(split, self.order(split)[position]), self.name)
        return sum(BLOCK + padded(sum(map(len, content))) for _, content in members)

    def fingerprint(self, opener: Opener, jobs: Sequence[ShardJob]) -> str:
        """Hash everything that determines the bytes of a split's shards."""
        split = jobs[0].split
        ids = xxhash.xxh3_128()
        for ref in self.order(split):
            ids.update(utf8(ref.id) + b"\n")
        code = (__version__, np.__version__)
        parts = (code, opener.fingerprint, self.name, self.features, self._seed, ids.hexdigest(), jobs[0].end, jobs[-1])
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def plan(corpus: OpenCorpus, split: str, shard_samples: int | None, shard_bytes: int) -> list[ShardJob]:
    """Cut a split into shards: its samples in packing order, at multiples of `shard_samples`.

    Where that is None, all shards have the same number of samples and about `shard_bytes`. The number is estimated
    from the first samples in packing order, which are a random choice.
    """
    samples = len(corpus.order(split))
    if shard_samples is None:
        sizes: list[int] = []
        while len(sizes) < min(samples, _MAX_MEASURED) and sum(sizes) < shard_bytes:
            sizes.append(corpus.encoded_bytes(split, len(sizes)))
        shards = math.ceil(samples * sum(sizes) / len(sizes) / shard_bytes)
        shard_samples = math.ceil(samples / shards)
    return [
        ShardJob(split, f"{corpus.name}-{split}-{number:06d}", first, min(first + shard_samples, samples))
        for number, first in enumerate(range(0, samples, shard_samples))
    ]


def make_in_worker(opener: bytes, seed: int, job: ShardJob, on_progress: OnProgress) -> ShardRecord:
    """Run `make` in a worker process, which opens the corpus with the pickled `opener` once and keeps it open."""
    return make(_reopened(opener, seed), job, on_progress)


@lru_cache(maxsize=1)
def _reopened(opener: bytes, seed: int) -> OpenCorpus:
    return OpenCorpus(pickle.loads(opener)(), seed)


def make(corpus: OpenCorpus, job: ShardJob, on_progress: OnProgress) -> ShardRecord:
    """Make a shard in memory, then write it, its index and its record, in this order.

    Args:
        corpus: The corpus.
        job: The shard to make.
        on_progress: Called with the samples done so far.

    Raises:
        DataError: A sample does not fit the corpus' description.
        StorageError: ModelInputs or writing failed.
    """
    statistics = ShardStatistics.empty_of(corpus.features, job.split)
    out = io.BytesIO()
    writer = TarWriter(out)
    rows, hashes = [], []
    for done, ref in enumerate(corpus.order(job.split)[job.first : job.end], start=1):
        sample, prepared = corpus.load(job.split, ref)
        statistics.add(sample, prepared)
        key, start = tar_key(sample.id), out.tell()
        for suffix, content in encode(sample, prepared, corpus.name):
            writer.add(f"{key}.{suffix}", *content)
        steps = [len(prepared.arrays[name]) if name in prepared.arrays else -1 for name in MODALITIES]
        rows.append((key, sample.id, start, out.tell(), steps))
        metadata = {"transcript": sample.transcript, "provenance": sample.provenance}
        hashes.append(hashes_of(metadata, sample.id, corpus.name))
        on_progress(done)
    writer.close()
    # This does not copy: CPython shares the buffer of a BytesIO until one of the two changes.
    tar = out.getvalue()
    builder = IndexBuilder(InMemory(tar), job.name)
    for row in rows:
        builder.add(*row)
    index = builder.finish().to_bytes()
    entry = ShardEntry(
        name=f"{job.name}.tar",
        samples=len(rows),
        bytes=len(tar),
        sha256=hashlib.sha256(tar).hexdigest(),
        index=IndexEntry(name=f"{job.name}.idx", bytes=len(index), sha256=hashlib.sha256(index).hexdigest()),
    )
    record = ShardRecord(entry, statistics, np.array(hashes, np.uint64))
    if job.split_url is not None:
        storage.write_bytes(storage.join(job.split_url, entry.name), tar)
        storage.write_bytes(storage.join(job.split_url, entry.index.name), index)
        if job.fingerprint is not None:
            storage.write_bytes(record_url(job.split_url, job.name), record.to_bytes(job.fingerprint))
    return record


def record_url(split_url: str, name: str) -> str:
    """URL of the record of a shard while its split is packed."""
    return storage.join(split_url, RECORDS, f"{name}.json")


def shuffled(refs: Sequence[SampleRef], seed: int) -> list[SampleRef]:
    """Sort samples into packing order: by xxh3-64 of the id, independent of the order in the corpus."""
    return sorted(refs, key=lambda ref: (xxhash.xxh3_64_intdigest(utf8(ref.id), seed), ref.id))


def encode(sample: SourceSample, prepared: Prepared, corpus: str) -> Iterator[tuple[str, Content]]:
    """Encode a sample as tar members, sorted by suffix: `json` and MODALITY.npy, each with its content.

    A number of the provenance that is not finite becomes null: JSON has no such numbers.
    """
    metadata: dict[str, Any] = {
        "id": sample.id,
        "corpus": corpus,
        "split": sample.split,
        "labels": dict(sample.labels),
        "transcript": sample.transcript,
        "provenance": dict(sample.provenance),
    }
    if sample.turn is not None:
        metadata["turn"] = sample.turn
    if sample.context:
        metadata["context"] = [utterance._asdict() for utterance in sample.context]
    try:
        text = _JSON.encode(metadata)
    except ValueError:
        # Python and many files have NaN as a number; JSON does not.
        text = _JSON.encode({**metadata, "provenance": finite(metadata["provenance"])})
    contents: dict[str, Content] = {f"{name}.npy": _npy(array) for name, array in prepared.arrays.items()}
    contents["json"] = (text.encode(),)
    yield from sorted(contents.items())


def _npy(array: Array) -> Content:
    return npy.header(array.dtype.str, array.shape), array.data.cast("B")
