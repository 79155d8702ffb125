"""Pack a corpus: shards, their indexes and a manifest for each split.

The samples of a split are shuffled once, by a hash of seed and id, and cut into ranges that are fixed before anything
is encoded. So any process can make any shard, and the same corpus, seed and shard size result in the same bytes on any
machine and with any number of processes.

1. Plan the shards of every split, and read the records of shards that an interrupted run has written.
2. Compare splits that exist with the planned ones: the same content is kept, other content is refused or overwritten.
3. Delete the remains of another packing: the manifest before its shards, records before the shards they describe.
4. Make the missing shards on the worker pool; each is written with its index, then its record in the folder `.pack`.
5. Write the manifests, so that a split with a manifest is complete, then delete the records.

A killed run therefore resumes from the records.
"""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from ivr_dist import storage
from ivr_dist.corpora.source import (
    Dropped,
    Opener,
    Source,
    divided_groups,
    dropped_by,
    notes_of,
    split_by_of,
    words_of_source,
)
from ivr_dist.errors import ConfigError, DataError
from ivr_dist.packing.shard_statistics import ShardStatistics
from ivr_dist.packing.shard_writer import (
    RECORDS,
    OpenCorpus,
    ShardJob,
    ShardRecord,
    make,
    make_in_worker,
    plan,
    record_url,
)
from ivr_dist.packing.worker_pool import InlinePool, WorkerPool
from ivr_dist.shards.manifest import MANIFEST_NAME, TABLE_NAME, TEXT_STATES, Manifest
from ivr_dist.shards.sample_hashes import HASHES_NAME, HashRows

DEFAULT_SHARD_BYTES = 64 << 20

Progress = Callable[[str, int, int], None]
"""Called with the split, the samples done and the total number of samples."""

_THREADS = 16
_TIMED_SAMPLES = 8
"""Samples that are timed to decide whether starting a worker pool pays off."""


@dataclass(frozen=True)
class PackOptions:
    """Size and order of shards."""

    shard_samples: int | None = None
    """Samples of a shard; None: as many as have about `shard_bytes`."""
    shard_bytes: int = DEFAULT_SHARD_BYTES
    """Approximate bytes of a shard, estimated from the first samples in packing order; every shard of a split has the
    same number of samples."""
    seed: int = 0
    """Seed of the packing order."""
    overwrite: bool = False
    """Replace existing splits that were packed from other data or with other options."""

    def __post_init__(self) -> None:
        if self.shard_bytes < 1 or (self.shard_samples is not None and self.shard_samples < 1):
            raise ConfigError("a shard must hold at least 1 sample and 1 byte", remedy="choose a larger shard size")
        if not 0 <= self.seed < 2**64:
            raise ConfigError(f"the packing seed is {self.seed}", remedy="choose 0 or more, below 2^64")


@dataclass(frozen=True)
class SplitSummary:
    """Result of packing one split."""

    split: str
    url: str
    status: Literal["packed", "already packed"]
    manifest_id: str
    samples: int
    shards: int
    bytes: int
    """Bytes of all shards, without indexes and manifest."""
    missing: Mapping[str, int]
    """By modality, where there are any: samples that do not have it."""
    replaced: Mapping[str, int]
    """By modality, where there are any: values replaced by 0 because they were not finite or beyond the stored type."""
    rounded: Mapping[str, int]
    """By modality, where there are any: whole numbers that the stored type cannot hold to the last digit."""
    empty: int
    """Samples without features and without a transcript, which are packed as well."""
    unlabelled: Mapping[str, int]
    """By task, where there are any: samples without its label, which are packed as well."""
    placeholders: Mapping[str, int]
    """By field (id, group, transcript), where there are any: samples in which it is `nan`, `None` or the like."""

    @property
    def warnings(self) -> list[str]:
        """List what the user should check, a sentence each."""
        sentences = [
            f"{count} values of {name} replaced by 0: not finite, or too large" for name, count in self.replaced.items()
        ]
        sentences += [
            f"{count} whole numbers of {name} rounded to the stored type" for name, count in self.rounded.items()
        ]
        sentences += [f"{count} samples have no {name}" for name, count in self.missing.items()]
        sentences += [f"{count} samples have no label {name}" for name, count in self.unlabelled.items()]
        sentences += [
            f"{count} samples have the {name} nan, None or the like: a missing value that became text?"
            for name, count in self.placeholders.items()
        ]
        return sentences + ([f"{self.empty} samples have neither features nor a transcript"] if self.empty else [])


@dataclass(frozen=True)
class PackSummary:
    """Result of packing a corpus."""

    corpus: str
    splits: tuple[SplitSummary, ...]
    dropped: tuple[Dropped, ...] = ()
    """Samples of the files that are in no split, with the reason."""
    notes: tuple[str, ...] = ()
    """Notes about other skipped parts of the files, a sentence each."""

    @property
    def warnings(self) -> list[str]:
        """List skipped and dropped samples, a sentence for each reason with the ids."""
        ids: dict[str, list[str]] = {}
        for sample in self.dropped:
            ids.setdefault(sample.reason, []).append(sample.id)
        dropped = [f"{len(names)} dropped, {reason}: {', '.join(names)}" for reason, names in ids.items()]
        return [*self.notes, *dropped]


def pack(
    source: Source,
    url: str,
    options: PackOptions | None = None,
    progress: Progress | None = None,
    *,
    opener: Opener | None = None,
    pool: WorkerPool | None = None,
) -> PackSummary:
    """Pack every split of a corpus into `url`/SPLIT.

    An existing split with the same content is kept; nothing is written before every existing split has been compared.
    Only one packing at a time may write to a URL.

    Args:
        source: The corpus.
        url: Directory or fsspec URL.
        options: Size and order of shards.
        progress: Called from time to time.
        opener: Opens the same corpus in another process. With it, an interrupted run is continued.
        pool: Makes the shards, if there is an opener; by default this process does.

    Raises:
        DataError: A sample does not match the corpus' description, or `url` holds a packing of other data.
        StorageError: ModelInputs or writing failed.
        WorkerError: A process of the pool was killed.
    """
    packer = _Packer(source, url, options or PackOptions(), progress or _silent, opener, pool)
    splits = [split for split, refs in source.splits().items() if refs]
    if not splits:
        raise DataError("the corpus has no samples", where=f"corpus {source.corpus}")
    packer.check_url(splits)
    notes = (*_cautions(source), *notes_of(source))
    return PackSummary(source.corpus, packer.pack(splits), tuple(dropped_by(source)), notes)


def _cautions(source: Source) -> Iterator[str]:
    """State once that the splits of a corpus share groups, where its card says so."""
    if split_by_of(source) == "clip":
        divided, groups = divided_groups(source.splits())
        known = f"{divided} of {groups} groups (videos) are" if groups else "videos are"
        yield f"{source.corpus} is split by clip: {known} in several splits, so results say little about new videos"


@dataclass
class _Split:
    """One split in progress."""

    name: str
    url: str
    jobs: list[ShardJob]
    """Its shards, by number."""
    fingerprint: str | None
    """Fingerprint of everything that determines its shards; None: nothing is recorded."""
    existing: Manifest | None
    """The manifest that already exists."""
    records: dict[int, ShardRecord]
    """Shards whose record is available, by number."""
    obsolete: Sequence[str] = ()
    """Files of another packing, to delete."""

    def unrecorded(self) -> list[int]:
        """Numbers of shards without a record."""
        return [number for number in range(len(self.jobs)) if number not in self.records]

    def unwritten(self) -> list[int]:
        """Numbers of shards that do not exist, have no record, or have another size."""
        entries = {n: (record.entry, record.entry.index) for n, record in self.records.items()}
        sizes = storage.file_sizes(self.url, [entry.name for both in entries.values() for entry in both])
        written = {n for n, both in entries.items() if all(sizes.get(entry.name) == entry.bytes for entry in both)}
        return [number for number in range(len(self.jobs)) if number not in written]


class _Packer:
    def __init__(
        self,
        source: Source,
        url: str,
        options: PackOptions,
        progress: Progress,
        opener: Opener | None,
        pool: WorkerPool | None,
    ) -> None:
        self._source = source
        self._corpus = OpenCorpus(source, options.seed)
        # Only validates the URL: messages show it as typed.
        storage.absolute(url)
        self._url = url
        self._options = options
        self._progress = progress
        self._opener = opener
        self._pool = pool

    def check_url(self, splits: Sequence[str]) -> None:
        """Refuse a URL that holds splits of another corpus, which would be mistaken for splits of this one."""
        for name in storage.list_dir(self._url):
            if name not in splits and storage.exists(storage.join(self._url, name, MANIFEST_NAME)):
                raise DataError(
                    f"the folder has a packed split {name}, which corpus {self._source.corpus} does not have",
                    where=storage.display(self._url),
                    remedy="pack to another folder, or delete the split",
                )

    def pack(self, names: Sequence[str]) -> tuple[SplitSummary, ...]:
        """Compare existing splits, make missing shards, and summarize each split."""
        splits = [self._plan(name) for name in names]
        existing = [split for split in splits if split.existing is not None]
        self._run([(split, number) for split in existing for number in split.unrecorded()], write=False)
        for split in existing:
            self._compare(split)
        self._run([(split, number) for split in splits for number in self._clear(split)], write=True)
        summaries = tuple(self._complete(split) for split in splits)
        # Not before all are complete, so that a run that is killed in between keeps the record of every shard.
        for split in splits:
            storage.delete_tree(storage.join(split.url, RECORDS))
        return summaries

    def _plan(self, name: str) -> _Split:
        """Plan the shards of a split, and read its existing manifest and records."""
        url = storage.join(self._url, name)
        jobs = plan(self._corpus, name, self._options.shard_samples, self._options.shard_bytes)
        existing, fingerprint, records = None, None, {}
        if storage.exists(storage.join(url, MANIFEST_NAME)):
            try:
                existing = Manifest.load(url)
            except DataError:
                if not self._options.overwrite:
                    raise
        if self._opener is not None:
            fingerprint = self._corpus.fingerprint(self._opener, jobs)
            records = self._read_records(url, jobs, fingerprint)
        return _Split(name, url, jobs, fingerprint, existing, records)

    def _read_records(self, split_url: str, jobs: Sequence[ShardJob], fingerprint: str) -> dict[int, ShardRecord]:
        """Read the records of shards that an interrupted run has written, by number."""
        names = set(storage.list_dir(storage.join(split_url, RECORDS)))

        def read(job: ShardJob) -> ShardRecord | None:
            url = record_url(split_url, job.name)
            if url.rpartition("/")[2] not in names:
                return None
            return ShardRecord.from_bytes(storage.read_bytes(url), fingerprint, self._corpus.features)

        with ThreadPoolExecutor(_THREADS) as pool:
            return {n: record for n, record in enumerate(pool.map(read, jobs)) if record is not None}

    def _compare(self, split: _Split) -> None:
        """Refuse to replace another packing, unless `overwrite` is set."""
        existing = split.existing
        if existing is None or self._manifest(split, self._statistics(split)).id == existing.id:
            return
        if not self._options.overwrite:
            raise DataError(
                "the folder holds another packing (its data, seed or shard size differs)",
                where=storage.display(split.url),
                remedy="pack to another folder, or overwrite it with --overwrite",
            )
        split.obsolete = [name for shard in existing.shards for name in (shard.name, shard.index.name)]
        split.records = {}

    def _clear(self, split: _Split) -> list[int]:
        """Delete the remains of another packing, and list the numbers of the shards that have to be written.

        The manifest is deleted before the files that it lists, and records before the shards that they describe.
        """
        # Also where all shards exist: a killed run may have been writing the manifest.
        storage.delete_staged(split.url)
        missing = split.unwritten()
        if not missing:
            return []
        split.existing = None
        for name in (MANIFEST_NAME, TABLE_NAME, HASHES_NAME):
            storage.delete_tree(storage.join(split.url, name))
        for number in missing:
            split.records.pop(number, None)
        recorded = {split.jobs[number].name for number in split.records}
        records = storage.join(split.url, RECORDS)
        for name in storage.list_dir(records):
            if name.removesuffix(".json") not in recorded:
                storage.delete_tree(storage.join(records, name))
        pattern = re.compile(rf"({re.escape(self._source.corpus)}-{re.escape(split.name)}-\d{{6,}})\.(tar|idx)")
        matches = [(name, pattern.fullmatch(name)) for name in storage.list_dir(split.url)]
        leftover = [name for name, match in matches if match and match[1] not in recorded]
        # The texts may be others.
        states = [TEXT_STATES] if missing else []
        for name in (*split.obsolete, *leftover, *states):
            storage.delete_tree(storage.join(split.url, name))
        return missing

    def _run(self, shards: Sequence[tuple[_Split, int]], *, write: bool) -> None:
        """Make shards; with `write`, also write them."""
        jobs = [split.jobs[number] for split, number in shards]
        if write:
            jobs = [
                replace(j, split_url=s.url, fingerprint=s.fingerprint) for j, (s, _) in zip(jobs, shards, strict=True)
            ]
        totals = {split.name: split.jobs[-1].end for split, _ in shards}
        done = dict(totals)
        for job in jobs:
            done[job.split] -= job.end - job.first
        reported = [0] * len(jobs)
        for split, samples in done.items():
            self._progress(split, samples, totals[split])

        def on_job_progress(number: int, samples: int) -> None:
            if samples != reported[number]:
                split = jobs[number].split
                done[split] += samples - reported[number]
                reported[number] = samples
                self._progress(split, done[split], totals[split])

        def on_result(number: int, record: ShardRecord) -> None:
            on_job_progress(number, record.entry.samples)
            split, shard = shards[number]
            split.records[shard] = record

        pool = self._pool_for(jobs)
        if pool is None:
            InlinePool().run(partial(make, self._corpus), jobs, on_job_progress, on_result)
        else:
            function = partial(make_in_worker, pickle.dumps(self._opener), self._options.seed)
            pool.run(function, jobs, on_job_progress, on_result)

    def _pool_for(self, jobs: Sequence[ShardJob]) -> WorkerPool | None:
        """Return the pool; None if there is none, or if this process would be done before the pool has started."""
        if not jobs or self._pool is None or self._opener is None:
            return None
        timed = range(jobs[0].first, jobs[0].end)[:_TIMED_SAMPLES]
        start = time.perf_counter()
        for position in timed:
            self._corpus.encoded_bytes(jobs[0].split, position)
        sample_s = (time.perf_counter() - start) / len(timed)
        return self._pool if sample_s * sum(job.end - job.first for job in jobs) >= self._pool.start_s else None

    def _complete(self, split: _Split) -> SplitSummary:
        """Write the manifest of a split whose shards all exist, unless the manifest exists too."""
        if missing := split.unwritten():
            raise DataError(
                f"{split.jobs[missing[0]].name} was written, but does not exist",
                where=storage.display(split.url),
                remedy="pack to storage that all processes and machines share",
            )
        statistics = self._statistics(split)
        hashes = HashRows.of(np.concatenate([split.records[number].hashes for number in range(len(split.jobs))]))
        manifest = replace(self._manifest(split, statistics), hashes=hashes.entry)
        if storage.file_sizes(split.url, [HASHES_NAME]).get(HASHES_NAME) != hashes.entry.bytes or (
            manifest != split.existing
        ):
            hashes.save(split.url)
        if manifest != split.existing:
            manifest.save(split.url)
        return SplitSummary(
            split=split.name,
            url=storage.display(split.url),
            status="already packed" if manifest == split.existing else "packed",
            manifest_id=manifest.id,
            samples=manifest.samples,
            shards=len(manifest.shards),
            bytes=sum(shard.bytes for shard in manifest.shards),
            missing={name: statistics.missing[name] for name in manifest.features if statistics.missing[name]},
            replaced={name: statistics.replaced[name] for name in manifest.features if statistics.replaced[name]},
            empty=statistics.empty,
            rounded={name: statistics.rounded[name] for name in manifest.features if statistics.rounded[name]},
            placeholders=dict(statistics.placeholders),
            unlabelled={name: statistics.unlabelled[name] for name in manifest.tasks if statistics.unlabelled[name]},
        )

    def _statistics(self, split: _Split) -> ShardStatistics:
        parts = (split.records[number].statistics for number in range(len(split.jobs)))
        return ShardStatistics.merged(self._corpus.features, split.name, parts)

    def _manifest(self, split: _Split, statistics: ShardStatistics) -> Manifest:
        return Manifest.create(
            corpus=self._source.corpus,
            split=split.name,
            seed=self._options.seed,
            features=self._corpus.features,
            tasks=self._source.tasks,
            shards=[split.records[number].entry for number in range(len(split.jobs))],
            statistics=statistics.manifest_statistics(),
            vocabulary=statistics.vocabulary,
            transcripts=statistics.transcripts,
            segmented=statistics.segmented,
            words=words_of_source(self._source),
            labels={task: split.jobs[-1].end - statistics.unlabelled[task] for task in self._source.tasks},
            split_by="clip" if split_by_of(self._source) == "clip" else None,
        )


def _silent(split: str, done: int, total: int) -> None:
    """Report nothing."""
