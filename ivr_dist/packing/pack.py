"""Packing: a corpus becomes shards, their indexes and a manifest for each split.

The samples of a split are put in a random order once, by a hash of seed and id, and cut into ranges that are known
before anything is encoded. So any process can make any shard, and the same corpus, seed and shard size give the same
bytes on any machine and on any number of processes.

Shards and their indexes are written first, the manifest last: what has a manifest is complete. Until all splits are
complete, a record of each shard is kept in the folder `.pack` of its split; a run that was killed goes on from those.
"""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from ivr_dist import storage
from ivr_dist.corpora.source import Dropped, Opener, Source, dropped_by, notes_of
from ivr_dist.errors import ConfigError, DataError
from ivr_dist.packing.shard_statistics import Tally
from ivr_dist.packing.shard_writer import (
    RECORDS,
    OpenCorpus,
    ShardJob,
    ShardRecord,
    make,
    make_elsewhere,
    plan,
    record_url,
)
from ivr_dist.packing.worker_pool import InlinePool, WorkerPool
from ivr_dist.shards.manifest import MANIFEST_NAME, TABLE_NAME, Manifest

DEFAULT_SHARD_BYTES = 64 << 20

Progress = Callable[[str, int, int], None]
"""Called with the split, the samples done and the samples in all."""

_THREADS = 16
_TIMED = 8


@dataclass(frozen=True)
class PackOptions:
    """How shards are cut."""

    shard_samples: int | None = None
    """Samples of a shard; None: as many as have about `shard_bytes`."""
    shard_bytes: int = DEFAULT_SHARD_BYTES
    """About how many bytes a shard has, as the first samples in packing order tell; every shard of a split has as many
    samples."""
    seed: int = 0
    """Seed of the order in which samples are packed."""
    overwrite: bool = False
    """Replace splits that are packed already from other data or with other options."""

    def __post_init__(self) -> None:
        if self.shard_bytes < 1 or (self.shard_samples is not None and self.shard_samples < 1):
            raise ConfigError("a shard must hold 1 sample and 1 byte or more", remedy="choose a larger shard size")
        if not 0 <= self.seed < 2**64:
            raise ConfigError(f"the packing seed is {self.seed}", remedy="choose 0 or more, below 2^64")


@dataclass(frozen=True)
class SplitSummary:
    """What became of one split."""

    split: str
    url: str
    status: Literal["packed", "already packed"]
    manifest_id: str
    samples: int
    shards: int
    bytes: int
    """Of all shards, without indexes and manifest."""
    missing: Mapping[str, int]
    """By modality, where there are any: samples that do not have it."""
    replaced: Mapping[str, int]
    """By modality, where there are any: values that were not finite, or beyond the stored type, and are 0 now."""
    rounded: Mapping[str, int]
    """By modality, where there are any: whole numbers that the stored type cannot hold to the last digit."""
    empty: int
    """Samples without any modality; they are packed."""
    unlabelled: Mapping[str, int]
    """By task, where there are any: samples without its label; they are packed."""
    placeholders: Mapping[str, int]
    """By field (id, group, transcript), where there are any: samples in which it is `nan`, `None` or the like."""

    @property
    def warnings(self) -> list[str]:
        """What a user should look at, a sentence each."""
        found = [
            f"{count} values of {name} replaced by 0: not finite, or too large" for name, count in self.replaced.items()
        ]
        found += [f"{count} whole numbers of {name} rounded to the stored type" for name, count in self.rounded.items()]
        found += [f"{count} samples have no {name}" for name, count in self.missing.items()]
        found += [f"{count} samples have no label {name}" for name, count in self.unlabelled.items()]
        found += [
            f"{count} samples have the {name} nan, None or the like: a missing value that became text?"
            for name, count in self.placeholders.items()
        ]
        return found + ([f"{self.empty} samples have no modality at all"] if self.empty else [])


@dataclass(frozen=True)
class PackSummary:
    """What became of a corpus."""

    corpus: str
    splits: tuple[SplitSummary, ...]
    dropped: tuple[Dropped, ...] = ()
    """Samples of the files that are in no split, with the reason."""
    notes: tuple[str, ...] = ()
    """What else in the files was passed over, a sentence each."""

    @property
    def warnings(self) -> list[str]:
        """What was passed over and dropped, a sentence for each reason with the ids."""
        ids: dict[str, list[str]] = {}
        for sample in self.dropped:
            ids.setdefault(sample.reason, []).append(sample.id)
        dropped = [f"{len(found)} dropped, {reason}: {', '.join(found)}" for reason, found in ids.items()]
        return [*self.notes, *dropped]


def pack(
    source: Source,
    url: str,
    options: PackOptions | None = None,
    progress: Progress | None = None,
    *,
    opener: Opener | None = None,
    crew: WorkerPool | None = None,
) -> PackSummary:
    """Pack every split of a corpus into `url`/SPLIT.

    A split that is there already with the same content is left as it is; nothing is written before every split that
    is there has been compared. One packing at a time may write to a place.

    Args:
        source: The corpus.
        url: Directory or fsspec URL.
        options: How to cut shards.
        progress: Called now and then.
        opener: How the same corpus is opened elsewhere. With it, a run that was broken off is continued.
        crew: Makes the shards, with an opener; by default this process does.

    Raises:
        DataError: A sample does not fit the corpus' description, or other data is packed there already.
        StorageError: Reading or writing failed.
        WorkerError: A process of the crew was killed.
    """
    packer = _Packer(source, url, options or PackOptions(), progress or _silent, opener, crew)
    splits = [split for split, refs in source.splits().items() if refs]
    if not splits:
        raise DataError("the corpus has no samples", where=f"corpus {source.corpus}")
    packer.check_place(splits)
    return PackSummary(source.corpus, packer.pack(splits), tuple(dropped_by(source)), tuple(notes_of(source)))


@dataclass
class _Split:
    """One split on its way."""

    name: str
    place: str
    jobs: list[ShardJob]
    """Its shards, by number."""
    fingerprint: str | None
    """Of all that its shards follow from; None: nothing is recorded."""
    found: Manifest | None
    """The manifest that is there."""
    records: dict[int, ShardRecord]
    """By number: shards that are known."""
    doomed: Sequence[str] = ()
    """Files of another packing, to be deleted."""

    def unknown(self) -> list[int]:
        """Numbers of shards that are not known."""
        return [number for number in range(len(self.jobs)) if number not in self.records]

    def unwritten(self) -> list[int]:
        """Numbers of shards that are not there, or not known, or have another size."""
        entries = {n: (record.entry, record.entry.index) for n, record in self.records.items()}
        sizes = storage.file_sizes(self.place, [entry.name for both in entries.values() for entry in both])
        there = {n for n, both in entries.items() if all(sizes.get(entry.name) == entry.bytes for entry in both)}
        return [number for number in range(len(self.jobs)) if number not in there]


class _Packer:
    def __init__(
        self,
        source: Source,
        url: str,
        options: PackOptions,
        progress: Progress,
        opener: Opener | None,
        crew: WorkerPool | None,
    ) -> None:
        self._source = source
        self._corpus = OpenCorpus(source, options.seed)
        # The folder as it was given, for those who look at it; that it means what it says, before anything is made.
        storage.absolute(url)
        self._url = url
        self._options = options
        self._progress = progress
        self._opener = opener
        self._crew = crew

    def check_place(self, splits: Sequence[str]) -> None:
        """Refuse a place that holds splits of another corpus: they would be taken for this one's."""
        for name in storage.list_dir(self._url):
            if name not in splits and storage.exists(storage.join(self._url, name, MANIFEST_NAME)):
                raise DataError(
                    f"a packed split {name} is there, which corpus {self._source.corpus} does not have",
                    where=storage.display(self._url),
                    remedy="pack to another place, or delete it",
                )

    def pack(self, names: Sequence[str]) -> tuple[SplitSummary, ...]:
        """Compare what is there, make what is not, and tell of each split."""
        splits = [self._look(name) for name in names]
        present = [split for split in splits if split.found is not None]
        self._run([(split, number) for split in present for number in split.unknown()], write=False)
        for split in present:
            self._compare(split)
        self._run([(split, number) for split in splits for number in self._clear(split)], write=True)
        summaries = tuple(self._complete(split) for split in splits)
        # Not before all are complete: a run that is killed in between finds every shard recorded.
        for split in splits:
            storage.delete_tree(storage.join(split.place, RECORDS))
        return summaries

    def _look(self, name: str) -> _Split:
        """What has to be there of a split, and what is known of it."""
        place = storage.join(self._url, name)
        jobs = plan(self._corpus, name, self._options.shard_samples, self._options.shard_bytes)
        found, fingerprint, records = None, None, {}
        if storage.exists(storage.join(place, MANIFEST_NAME)):
            try:
                found = Manifest.load(place)
            except DataError:
                if not self._options.overwrite:
                    raise
        if self._opener is not None:
            fingerprint = self._corpus.fingerprint(self._opener, jobs)
            records = self._recorded(place, jobs, fingerprint)
        return _Split(name, place, jobs, fingerprint, found, records)

    def _recorded(self, place: str, jobs: Sequence[ShardJob], fingerprint: str) -> dict[int, ShardRecord]:
        """What an earlier run that was broken off has written, by number."""
        there = set(storage.list_dir(storage.join(place, RECORDS)))

        def read(job: ShardJob) -> ShardRecord | None:
            url = record_url(place, job.name)
            if url.rpartition("/")[2] not in there:
                return None
            return ShardRecord.from_bytes(storage.read_bytes(url), fingerprint, self._corpus.features)

        with ThreadPoolExecutor(_THREADS) as pool:
            return {n: record for n, record in enumerate(pool.map(read, jobs)) if record is not None}

    def _compare(self, split: _Split) -> None:
        """Refuse to replace another packing, unless that is asked for."""
        found = split.found
        if found is None or self._manifest(split, self._tally(split)).id == found.id:
            return
        if not self._options.overwrite:
            raise DataError(
                "another packing is there already (its data, seed or shard size differs)",
                where=storage.display(split.place),
                remedy="pack to another place, or overwrite it with --overwrite",
            )
        split.doomed = [name for shard in found.shards for name in (shard.name, shard.index.name)]
        split.records = {}

    def _clear(self, split: _Split) -> list[int]:
        """Numbers of the shards that have to be written; what else is in their place, whole or broken off, goes first.

        In this order: the manifest before the files that it promises, and records before the shards they describe.
        """
        # Also where all shards are there: whoever was killed may have been writing the manifest.
        storage.delete_staged(split.place)
        missing = split.unwritten()
        if not missing:
            return []
        split.found = None
        for name in (MANIFEST_NAME, TABLE_NAME):
            storage.delete_tree(storage.join(split.place, name))
        for number in missing:
            split.records.pop(number, None)
        kept = {split.jobs[number].name for number in split.records}
        records = storage.join(split.place, RECORDS)
        for name in storage.list_dir(records):
            if name.removesuffix(".json") not in kept:
                storage.delete_tree(storage.join(records, name))
        ours = re.compile(rf"({re.escape(self._source.corpus)}-{re.escape(split.name)}-\d{{6,}})\.(tar|idx)")
        found = [(name, ours.fullmatch(name)) for name in storage.list_dir(split.place)]
        leftover = [name for name, match in found if match and match[1] not in kept]
        for name in (*split.doomed, *leftover):
            storage.delete_tree(storage.join(split.place, name))
        return missing

    def _run(self, shards: Sequence[tuple[_Split, int]], *, write: bool) -> None:
        """Make shards, and write them if they are to be written."""
        jobs = [split.jobs[number] for split, number in shards]
        if write:
            jobs = [
                replace(j, place=s.place, fingerprint=s.fingerprint) for j, (s, _) in zip(jobs, shards, strict=True)
            ]
        totals = {split.name: split.jobs[-1].end for split, _ in shards}
        done = dict(totals)
        for job in jobs:
            done[job.split] -= job.end - job.first
        seen = [0] * len(jobs)
        for split, samples in done.items():
            self._progress(split, samples, totals[split])

        def watch(number: int, samples: int) -> None:
            if samples != seen[number]:
                split = jobs[number].split
                done[split] += samples - seen[number]
                seen[number] = samples
                self._progress(split, done[split], totals[split])

        def take(number: int, record: ShardRecord) -> None:
            watch(number, record.entry.samples)
            split, shard = shards[number]
            split.records[shard] = record

        crew = self._crew_for(jobs)
        if crew is None:
            InlinePool().run(partial(make, self._corpus), jobs, watch, take)
        else:
            crew.run(partial(make_elsewhere, pickle.dumps(self._opener), self._options.seed), jobs, watch, take)

    def _crew_for(self, jobs: Sequence[ShardJob]) -> WorkerPool | None:
        """The crew; None if there is none, or this process would be done before it has begun."""
        if not jobs or self._crew is None or self._opener is None:
            return None
        first = range(jobs[0].first, jobs[0].end)[:_TIMED]
        started = time.perf_counter()
        for number in first:
            self._corpus.encoded_bytes(jobs[0].split, number)
        one = (time.perf_counter() - started) / len(first)
        return self._crew if one * sum(job.end - job.first for job in jobs) >= self._crew.start_s else None

    def _complete(self, split: _Split) -> SplitSummary:
        """Write the manifest of a split whose shards are all there, unless it is there."""
        if missing := split.unwritten():
            raise DataError(
                f"{split.jobs[missing[0]].name} was written, but is not there",
                where=storage.display(split.place),
                remedy="pack to a place that all processes and machines reach alike",
            )
        tally = self._tally(split)
        manifest = self._manifest(split, tally)
        if manifest != split.found:
            manifest.save(split.place)
        return SplitSummary(
            split=split.name,
            url=storage.display(split.place),
            status="already packed" if manifest == split.found else "packed",
            manifest_id=manifest.id,
            samples=manifest.samples,
            shards=len(manifest.shards),
            bytes=sum(shard.bytes for shard in manifest.shards),
            missing={name: tally.missing[name] for name in manifest.features if tally.missing[name]},
            replaced={name: tally.replaced[name] for name in manifest.features if tally.replaced[name]},
            empty=tally.empty,
            rounded={name: tally.rounded[name] for name in manifest.features if tally.rounded[name]},
            placeholders=dict(tally.placeholders),
            unlabelled={name: tally.unlabelled[name] for name in manifest.tasks if tally.unlabelled[name]},
        )

    def _tally(self, split: _Split) -> Tally:
        parts = (split.records[number].tally for number in range(len(split.jobs)))
        return Tally.merged(self._corpus.features, split.name, parts)

    def _manifest(self, split: _Split, tally: Tally) -> Manifest:
        return Manifest.create(
            corpus=self._source.corpus,
            split=split.name,
            seed=self._options.seed,
            features=self._corpus.features,
            tasks=self._source.tasks,
            shards=[split.records[number].entry for number in range(len(split.jobs))],
            statistics=tally.manifest_statistics(),
            vocabulary=tally.vocabulary,
            transcripts=tally.transcripts,
            labels={task: split.jobs[-1].end - tally.unlabelled[task] for task in self._source.tasks},
        )


def _silent(split: str, done: int, total: int) -> None:
    """Report nothing."""
