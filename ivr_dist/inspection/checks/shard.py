"""Check of one shard against its index, its manifest entry and the sample layout; reports every problem."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash

from ivr_dist import storage
from ivr_dist.errors import CorruptDataError, StorageError
from ivr_dist.inspection.checks.findings import Finding, Kind
from ivr_dist.inspection.checks.sample import SampleFacts, check_sample
from ivr_dist.shards import tar
from ivr_dist.shards.index import ShardIndex
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_hashes import KINDS
from ivr_dist.shards.shard_table import IndexEntry, ShardEntry

Span = tuple[str, int, int]
"""KEY of a sample, and its bytes [start, end) in the shard."""


@dataclass
class ShardReport:
    """Findings and counts of one shard."""

    findings: list[Finding] = field(default_factory=list)
    hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, len(KINDS)), np.uint64))
    """[n, 3] hashes of id, group and text of each sample (see `shards.sample_hashes`), in the order of `shard_ids`."""
    groups: Counter[str] = field(default_factory=Counter)
    """Number of samples by group, without those that have none."""
    corpora: Counter[str] = field(default_factory=Counter)
    """Number of samples by the corpus that they name."""
    transcripts: int = 0
    """Samples whose transcript has a word."""
    labels: Counter[str] = field(default_factory=Counter)
    """Number of samples that have a label, by task."""
    steps: Counter[str] = field(default_factory=Counter)
    """Number of steps by modality."""
    vocabulary: dict[str, int] = field(default_factory=dict)
    """Largest token id plus one, by modality of token ids."""
    complete: bool = True
    """Whether every sample could be read, so that the counts are complete."""

    def add(self, facts: SampleFacts) -> None:
        """Count a sample."""
        self.findings += facts.findings
        self.complete &= facts.readable
        self.transcripts += facts.has_transcript
        self.labels.update(facts.labels)
        self.steps.update(facts.steps)
        if facts.group is not None:
            self.groups[facts.group] += 1
        if facts.corpus is not None:
            self.corpora[facts.corpus] += 1
        for name, size in facts.vocabulary.items():
            self.vocabulary[name] = max(size, self.vocabulary.get(name, 0))


def check_shard(split_url: str, manifest: Manifest, entry: ShardEntry) -> ShardReport:
    """Check a shard, its index and its samples. Both files are held in memory.

    Args:
        split_url: URL of the split.
        manifest: Its manifest.
        entry: The shard's entry in the manifest.
    """
    return _ShardCheck(split_url, manifest, entry).run()


def shard_ids(split_url: str, manifest: Manifest, entry: ShardEntry) -> list[str]:
    """Read the ids of the samples of a shard, in the order of `ShardReport.hashes`."""
    check = _ShardCheck(split_url, manifest, entry)
    check.run()
    return check.ids


class _ShardCheck:
    def __init__(self, split_url: str, manifest: Manifest, entry: ShardEntry) -> None:
        self.ids: list[str] = []
        self._split_url = split_url
        self._manifest = manifest
        self._entry = entry
        self._report = ShardReport()
        self._where = storage.display(storage.join(split_url, entry.name))
        self._index_where = storage.display(storage.join(split_url, entry.index.name))

    def run(self) -> ShardReport:
        index = self._read_index()
        data = self._read(self._entry)
        if data is None:
            self._report.complete = False
            return self._report
        content = memoryview(data)
        if index is not None:
            self._check_segments(content, index)
        spans, is_whole = self._walk(content)
        if index is not None:
            self._compare(index, spans, is_whole)
        if index is not None and not is_whole:
            # After the damage, only the index has the offsets of samples.
            spans = [span for span in _spans(index) if span[2] <= len(content)]
        self._report.complete &= is_whole
        self._check_samples(content, spans, index)
        return self._report

    def _add(self, kind: Kind, what: str, where: str = "") -> None:
        self._report.findings.append(Finding(kind, what, where or self._where))

    def _sample(self, key: str) -> str:
        return f"{self._where}, sample {key}"

    def _read(self, entry: ShardEntry | IndexEntry) -> bytes | None:
        """Read a file and compare it with the manifest; None if it cannot be read."""
        url = storage.join(self._split_url, entry.name)
        where = storage.display(url)
        try:
            data = storage.read_bytes(url)
        except storage.NotFoundError:
            self._add("missing", "the file is missing", where)
            return None
        except StorageError as error:
            self._add("unreadable", error.what, where)
            return None
        if len(data) != entry.bytes:
            self._add("size", f"the file has {len(data)} bytes, the manifest says {entry.bytes}", where)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            self._add("sha256", "the file does not match the manifest's checksum", where)
        return data

    def _read_index(self) -> ShardIndex | None:
        data = self._read(self._entry.index)
        if data is None:
            return None
        try:
            index = ShardIndex.from_bytes(data, self._index_where)
        except CorruptDataError as error:
            self._add("index", error.what, self._index_where)
            return None
        if len(index.keys) != self._entry.samples:
            what = f"the index has {len(index.keys)} samples, the manifest says {self._entry.samples}"
            self._add("count", what, self._index_where)
        return index

    def _check_segments(self, content: memoryview, index: ShardIndex) -> None:
        ends = index.offset + index.size
        for number, expected in enumerate(index.xxh3.tolist()):
            first, last = int(index.segment[number]), int(index.segment[number + 1]) - 1
            start, end = int(index.offset[first]), int(ends[last])
            segment = f"samples {index.keys[first]} to {index.keys[last]}, bytes {start} to {end}"
            if end > len(content):
                self._add("xxh3", f"{segment}: the file ends at {len(content)}")
            elif xxhash.xxh3_64_intdigest(content[start:end]) != expected:
                self._add("xxh3", f"{segment}: do not match the index's checksum")

    def _walk(self, content: memoryview) -> tuple[list[Span], bool]:
        """Find the samples in the tar itself; the flag says whether it could be read to its end."""
        spans: list[Span] = []
        try:
            for group in tar.samples(content, self._where, whole=True):
                spans.append((group[0].key, group[0].start, group[-1].end))
        except CorruptDataError as error:
            self._add("tar", error.what)
            return spans, False
        for key, count in Counter(key for key, _, _ in spans).items():
            if count > 1:
                what = "the sample is in the tar twice, or its members are not adjacent"
                self._add("tar", what, self._sample(key))
        if len(spans) != self._entry.samples:
            self._add("count", f"the shard has {len(spans)} samples, the manifest says {self._entry.samples}")
        return spans, True

    def _compare(self, index: ShardIndex, spans: list[Span], is_whole: bool) -> None:
        """Compare the index with the samples of the tar: all of them, or those before the damage."""
        listed = {key: (start, end) for key, start, end in _spans(index)}
        for key, start, end in spans:
            if key not in listed:
                self._add("index", "the index lacks the sample", self._sample(key))
            elif listed[key] != (start, end):
                indexed = f"bytes {listed[key][0]} to {listed[key][1]}"
                self._add("index", f"the index has {indexed}, the tar {start} to {end}", self._sample(key))
        if not is_whole:
            return
        in_tar = {key for key, _, _ in spans}
        for key in index.keys:
            if key not in in_tar:
                self._add("index", "the index has a sample that is not in the tar", self._sample(key))
        if len(listed) != len(index.keys):
            self._add("index", "two samples of the index have the same KEY", self._index_where)

    def _check_samples(self, content: memoryview, spans: list[Span], index: ShardIndex | None) -> None:
        lengths = dict(zip(index.keys, index.lengths.tolist(), strict=True)) if index is not None else {}
        indexed_ids = (
            dict(zip(index.keys, index.ids, strict=True)) if index is not None and index.ids is not None else {}
        )
        hashes: list[tuple[int, int, int]] = []
        for key, start, end in spans:
            facts = check_sample(content[start:end], key, self._sample(key), self._manifest)
            self.ids.append(facts.id)
            hashes.append(facts.hashes)
            self._report.add(facts)
            if facts.readable and lengths.get(key, facts.lengths) != facts.lengths:
                what = f"the index has {lengths[key]} steps of text, audio and vision, the tar {facts.lengths}"
                self._add("index", what, self._sample(key))
            if facts.readable and indexed_ids.get(key, facts.id) != facts.id:
                what = f"the index has the id {indexed_ids[key]}, the tar {facts.id}"
                self._add("index", what, self._sample(key))
        self._report.hashes = np.array(hashes, np.uint64).reshape(-1, len(KINDS))


def _spans(index: ShardIndex) -> list[Span]:
    return list(zip(index.keys, index.offset.tolist(), (index.offset + index.size).tolist(), strict=True))
