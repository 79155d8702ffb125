"""Checks of one split as a whole: its manifest, the files beside it, its counts and its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.errors import IvrError
from ivr_dist.inspection.checks.findings import Finding, Kind
from ivr_dist.inspection.checks.shard import ShardReport
from ivr_dist.shards.manifest import MANIFEST_NAME, TEXT_STATES, Manifest
from ivr_dist.shards.sample_hashes import KINDS, HashRows, HashTable


@dataclass
class CheckedSplit:
    """A split with the reports of its shards."""

    url: str
    manifest: Manifest
    findings: list[Finding] = field(default_factory=list)
    """Findings that concern this split alone."""
    reports: list[ShardReport] = field(default_factory=list)
    """One report per shard, in the order of the manifest, once all have been read."""

    @property
    def parent(self) -> str:
        """The folder of its corpus: the one that contains the split."""
        return storage.absolute(self.url).rstrip("/").rpartition("/")[0]

    @property
    def name(self) -> str:
        """Name of the split: train, valid, test or another."""
        return self.manifest.split

    @property
    def where(self) -> str:
        """URL of its manifest, for findings."""
        return storage.display(storage.join(self.url, MANIFEST_NAME))

    @property
    def is_complete(self) -> bool:
        """Whether every sample could be read."""
        return all(report.complete for report in self.reports)

    @cached_property
    def hashes(self) -> HashRows:
        """Hashes of its samples as they are in the shards."""
        return HashRows.of(np.concatenate([ShardReport().hashes, *(report.hashes for report in self.reports)]))

    @cached_property
    def groups(self) -> Counter[str]:
        """Number of samples by group (video), without those that have none."""
        groups: Counter[str] = Counter()
        for report in self.reports:
            groups.update(report.groups)
        return groups


def open_split(url: str) -> CheckedSplit | Finding:
    """Open a split and report files that its manifest does not list; a finding if the manifest cannot be read."""
    try:
        split = CheckedSplit(url, Manifest.load(url))
    except IvrError as error:
        return Finding("manifest", error.what, storage.display(storage.join(url, MANIFEST_NAME)))
    if storage.can_list(url):
        entries = [entry for shard in split.manifest.shards for entry in (shard, shard.index)]
        listed = {TEXT_STATES, *split.manifest.own_files, *(entry.name for entry in entries)}
        for name in storage.list_dir(url):
            # Some servers still list a folder that was deleted.
            if name not in listed and storage.holds_files(storage.join(url, name)):
                where = storage.display(storage.join(url, name))
                split.findings.append(Finding("leftover", "the manifest does not list this file", where))
    return split


def compare_counts(split: CheckedSplit) -> Iterator[Finding]:
    """Compare the manifest's counts with the shards, if all of them could be read."""
    manifest = split.manifest
    if not split.is_complete:
        return
    transcripts = sum(report.transcripts for report in split.reports)
    # Older versions did not count: 0, or no entry.
    if manifest.transcripts and manifest.transcripts != transcripts:
        what = f"{transcripts} samples have a transcript, the manifest says {manifest.transcripts}"
        yield Finding("count", what, split.where)
    for task, count in manifest.labels.items():
        labelled = sum(report.labels[task] for report in split.reports)
        if labelled != count:
            what = f"{labelled} samples have a label {task}, the manifest says {count}"
            yield Finding("count", what, split.where)
    for name, size in manifest.vocabulary.items():
        largest = max((report.vocabulary.get(name, 0) for report in split.reports), default=0)
        if largest != size:
            what = f"the largest token id of {name} is {largest - 1}, the manifest says {size - 1}"
            yield Finding("count", what, split.where)
    for name, statistics in manifest.statistics.items():
        steps = sum(report.steps[name] for report in split.reports)
        # Statistics leave out steps in which a value was replaced.
        if statistics.steps > steps:
            what = f"the statistics are over {statistics.steps} steps of {name}, the shards have {steps}"
            yield Finding("count", what, split.where)


def compare_hashes(split: CheckedSplit) -> Iterator[Finding]:
    """Compare the file of sample hashes with the samples, if all of them could be read."""
    entry = split.manifest.hashes
    if entry is None:
        return
    where = storage.display(storage.join(split.url, entry.name))
    try:
        table = HashTable.from_bytes(storage.read_bytes(storage.join(split.url, entry.name)), entry, where)
        for kind in KINDS:
            for _ in table.rows(kind):
                pass
    except storage.NotFoundError:
        yield Finding("missing", "the file is missing", where)
    except IvrError as error:
        yield Finding("hashes", error.what, where)
    else:
        if split.is_complete and split.hashes.entry != entry:
            yield Finding("hashes", "the hashes of ids, groups and texts are not those of the samples", where)


def compare_card(split: CheckedSplit, card: Card) -> Iterator[Finding]:
    """Compare the manifest with the card of its corpus."""

    def finding(what: str, kind: Kind = "card") -> Finding:
        return Finding(kind, what, split.where)

    manifest = split.manifest
    if manifest.corpus != card.name:
        yield finding(f"the corpus is {manifest.corpus}, the card's is {card.name}")
    if manifest.split not in card.splits:
        yield finding(f"the card has no split {manifest.split}")
    count = card.expected_counts().get(manifest.split)
    if count is not None and manifest.samples != count:
        yield finding(f"split {manifest.split} has {manifest.samples} samples, the card expects {count}", "count")
    for name in dict.fromkeys([*manifest.features, *card.features]):
        if name == "text" and card.text is not None:
            continue  # made of the transcripts while packing
        packed, described = manifest.features.get(name), card.features.get(name)
        if packed is None and name in card.optional_modalities():
            continue
        if packed is None or described is None:
            yield finding(f"only {'the card' if packed is None else 'the manifest'} describes features of {name}")
            continue
        dtype = "int32" if described.kind == "tokens" else described.dtype
        expected = {"set": described.set, "kind": described.kind, "dtype": dtype, "dim": described.dim}
        for key, value in expected.items():
            # A card may leave the width to the files.
            if value is not None and getattr(packed, key) != value:
                yield finding(f"{name} has the {key} {getattr(packed, key)}, the card says {value}")
    for task in dict.fromkeys([*manifest.tasks, *card.tasks]):
        if manifest.tasks.get(task) != card.tasks.get(task):
            yield finding(f"task {task} differs from the card")


def compare_layout(split: CheckedSplit, first: CheckedSplit) -> Iterator[Finding]:
    """Compare two splits of one corpus, which must have the same features and tasks."""
    for key in ("corpus", "features", "tasks"):
        if getattr(split.manifest, key) != getattr(first.manifest, key):
            yield Finding("manifest", f"{key} differs from that of split {first.name}", split.where)
