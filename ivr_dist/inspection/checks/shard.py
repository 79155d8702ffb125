"""One shard against its index and its entry in the manifest, and each sample in it: every fault, not only the first."""

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
from ivr_dist.shards.sample_ids import id_hash
from ivr_dist.shards.shard_table import IndexEntry, ShardEntry

Place = tuple[str, int, int]
"""Key of a sample, and the bytes [start, end) of the shard that it takes."""


@dataclass
class ShardReport:
    """What was found in a shard."""

    faults: list[Finding] = field(default_factory=list)
    ids: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """[n] xxh3-64 of the id of each sample, in the order of `shard_ids`."""
    groups: Counter[str] = field(default_factory=Counter)
    """Samples of each group; those whose group is not known are left out."""
    corpora: Counter[str] = field(default_factory=Counter)
    """Samples that name each corpus."""
    transcripts: int = 0
    """Samples whose transcript has a word."""
    labels: Counter[str] = field(default_factory=Counter)
    """Samples that have a label, by task."""
    steps: Counter[str] = field(default_factory=Counter)
    """By modality."""
    vocabulary: dict[str, int] = field(default_factory=dict)
    """By modality of token ids: one more than the largest id."""
    complete: bool = True
    """Whether every sample could be read, so that the counts are those of the shard."""

    def add(self, facts: SampleFacts) -> None:
        """Count a sample."""
        self.faults += facts.faults
        self.complete &= facts.readable
        self.transcripts += facts.spoken
        self.labels.update(facts.labels)
        self.steps.update(facts.steps)
        if facts.group is not None:
            self.groups[facts.group] += 1
        if facts.corpus is not None:
            self.corpora[facts.corpus] += 1
        for name, size in facts.vocabulary.items():
            self.vocabulary[name] = max(size, self.vocabulary.get(name, 0))


def check_shard(split_url: str, manifest: Manifest, entry: ShardEntry) -> ShardReport:
    """Check a shard, its index and its samples; both files are in memory meanwhile.

    Args:
        split_url: Where the split is.
        manifest: Of the split.
        entry: The shard's part of it.
    """
    return _ShardCheck(split_url, manifest, entry).run()


def shard_ids(split_url: str, manifest: Manifest, entry: ShardEntry) -> list[str]:
    """The ids of the samples of a shard, in the order of `ShardReport.ids`."""
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
        places, whole = self._walk(content)
        if index is not None:
            self._compare(index, places, whole)
        if index is not None and not whole:
            # Past the damage, only the index knows where samples start.
            places = [place for place in _places(index) if place[2] <= len(content)]
        self._report.complete &= whole
        self._check_samples(content, places, index)
        return self._report

    def _fault(self, kind: Kind, what: str, where: str = "") -> None:
        self._report.faults.append(Finding(kind, what, where or self._where))

    def _sample(self, key: str) -> str:
        return f"{self._where}, sample {key}"

    def _read(self, entry: ShardEntry | IndexEntry) -> bytes | None:
        """A file of the split, compared with the manifest; None if it cannot be read."""
        url = storage.join(self._split_url, entry.name)
        where = storage.display(url)
        try:
            data = storage.read_bytes(url)
        except storage.NotFoundError:
            self._fault("missing", "the file is missing", where)
            return None
        except StorageError as error:
            self._fault("unreadable", error.what, where)
            return None
        if len(data) != entry.bytes:
            self._fault("size", f"the file has {len(data)} bytes, the manifest says {entry.bytes}", where)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            self._fault("sha256", "the file does not match the manifest's checksum", where)
        return data

    def _read_index(self) -> ShardIndex | None:
        data = self._read(self._entry.index)
        if data is None:
            return None
        try:
            index = ShardIndex.from_bytes(data, self._index_where)
        except CorruptDataError as error:
            self._fault("index", error.what, self._index_where)
            return None
        if len(index.keys) != self._entry.samples:
            what = f"the index has {len(index.keys)} samples, the manifest says {self._entry.samples}"
            self._fault("count", what, self._index_where)
        return index

    def _check_segments(self, content: memoryview, index: ShardIndex) -> None:
        ends = index.offset + index.size
        for number, expected in enumerate(index.xxh3.tolist()):
            first, last = int(index.segment[number]), int(index.segment[number + 1]) - 1
            start, end = int(index.offset[first]), int(ends[last])
            who = f"samples {index.keys[first]} to {index.keys[last]}, bytes {start} to {end}"
            if end > len(content):
                self._fault("xxh3", f"{who}: the file ends before, at {len(content)}")
            elif xxhash.xxh3_64_intdigest(content[start:end]) != expected:
                self._fault("xxh3", f"{who}: do not match the index's checksum")

    def _walk(self, content: memoryview) -> tuple[list[Place], bool]:
        """The samples as the tar itself has them, and whether it could be read to its end."""
        places: list[Place] = []
        try:
            for group in tar.samples(content, self._where, whole=True):
                places.append((group[0].key, group[0].start, group[-1].end))
        except CorruptDataError as error:
            self._fault("tar", error.what)
            return places, False
        for key, count in Counter(key for key, _, _ in places).items():
            if count > 1:
                what = "the sample is in the tar twice, or its members are not one after the other"
                self._fault("tar", what, self._sample(key))
        if len(places) != self._entry.samples:
            self._fault("count", f"the shard has {len(places)} samples, the manifest says {self._entry.samples}")
        return places, True

    def _compare(self, index: ShardIndex, places: list[Place], whole: bool) -> None:
        """Compare the index with the samples of the tar, all of them or those before a damage."""
        listed = {key: (start, end) for key, start, end in _places(index)}
        for key, start, end in places:
            if key not in listed:
                self._fault("index", "the index does not have the sample", self._sample(key))
            elif listed[key] != (start, end):
                said = f"bytes {listed[key][0]} to {listed[key][1]}"
                self._fault("index", f"the index has {said}, the tar {start} to {end}", self._sample(key))
        if not whole:
            return
        there = {key for key, _, _ in places}
        for key in index.keys:
            if key not in there:
                self._fault("index", "the index has a sample that is not in the tar", self._sample(key))
        if len(listed) != len(index.keys):
            self._fault("index", "two samples of the index have one key", self._index_where)

    def _check_samples(self, content: memoryview, places: list[Place], index: ShardIndex | None) -> None:
        lengths = dict(zip(index.keys, index.lengths.tolist(), strict=True)) if index is not None else {}
        named = dict(zip(index.keys, index.ids, strict=True)) if index is not None and index.ids is not None else {}
        for key, start, end in places:
            facts = check_sample(content[start:end], key, self._sample(key), self._manifest)
            self.ids.append(facts.id)
            self._report.add(facts)
            if facts.readable and lengths.get(key, facts.lengths) != facts.lengths:
                what = f"the index has {lengths[key]} steps of text, audio and vision, the tar {facts.lengths}"
                self._fault("index", what, self._sample(key))
            if facts.readable and named.get(key, facts.id) != facts.id:
                what = f"the index has the id {named[key]}, the tar {facts.id}"
                self._fault("index", what, self._sample(key))
        self._report.ids = np.array(list(map(id_hash, self.ids)), np.uint64)


def _places(index: ShardIndex) -> list[Place]:
    return list(zip(index.keys, index.offset.tolist(), (index.offset + index.size).tolist(), strict=True))
