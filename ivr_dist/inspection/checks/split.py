"""One split as a whole: its manifest, the files beside it, and what its card says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.errors import IvrError
from ivr_dist.inspection.checks.findings import Finding, Kind
from ivr_dist.inspection.checks.shard import ShardReport
from ivr_dist.shards.manifest import MANIFEST_NAME, Manifest


@dataclass
class CheckedSplit:
    """A split and what was found in its shards."""

    url: str
    manifest: Manifest
    faults: list[Finding] = field(default_factory=list)
    """All that are of this split alone."""
    reports: list[ShardReport] = field(default_factory=list)
    """In the order of the manifest, once all are read."""

    @property
    def parent(self) -> str:
        """The folder that it is in, which is that of its corpus."""
        return storage.absolute(self.url).rstrip("/").rpartition("/")[0]

    @property
    def name(self) -> str:
        """Train, valid, test or another."""
        return self.manifest.split

    @property
    def where(self) -> str:
        """Its manifest, for faults."""
        return storage.display(storage.join(self.url, MANIFEST_NAME))

    @cached_property
    def groups(self) -> Counter[str]:
        """Samples of each group (video); those whose group is not known are left out."""
        found: Counter[str] = Counter()
        for report in self.reports:
            found.update(report.groups)
        return found


def open_split(url: str) -> CheckedSplit | Finding:
    """A split with the files beside it that its manifest does not name; the fault, if the manifest cannot be read."""
    try:
        split = CheckedSplit(url, Manifest.load(url))
    except IvrError as error:
        return Finding("manifest", error.what, storage.display(storage.join(url, MANIFEST_NAME)))
    if storage.can_list(url):
        entries = [entry for shard in split.manifest.shards for entry in (shard, shard.index)]
        named = {*split.manifest.own_files, *(entry.name for entry in entries)}
        for name in storage.list_dir(url):
            # Some servers go on listing a folder that was deleted.
            if name not in named and storage.holds_files(storage.join(url, name)):
                where = storage.display(storage.join(url, name))
                split.faults.append(Finding("leftover", "the manifest does not name this file", where))
    return split


def compare_counts(split: CheckedSplit) -> Iterator[Finding]:
    """The manifest's counts against the shards, where all of the split could be read."""
    manifest = split.manifest
    if not all(report.complete for report in split.reports):
        return
    transcripts = sum(report.transcripts for report in split.reports)
    # 0 and absence also mean that an older version did not count.
    if manifest.transcripts and manifest.transcripts != transcripts:
        what = f"{transcripts} samples have a transcript, the manifest says {manifest.transcripts}"
        yield Finding("count", what, split.where)
    for task, count in manifest.labels.items():
        labelled = sum(report.labels[task] for report in split.reports)
        if labelled != count:
            what = f"{labelled} samples have a label {task}, the manifest says {count}"
            yield Finding("count", what, split.where)
    for name, size in manifest.vocabulary.items():
        found = max((report.vocabulary.get(name, 0) for report in split.reports), default=0)
        if found != size:
            what = f"the largest token id of {name} is {found - 1}, the manifest says {size - 1}"
            yield Finding("count", what, split.where)
    for name, statistics in manifest.statistics.items():
        steps = sum(report.steps[name] for report in split.reports)
        # Steps with a value that was replaced are not in the statistics.
        if statistics.steps > steps:
            what = f"the statistics are over {statistics.steps} steps of {name}, the shards have {steps}"
            yield Finding("count", what, split.where)


def compare_card(split: CheckedSplit, card: Card) -> Iterator[Finding]:
    """The manifest against the card of its corpus."""

    def wrong(what: str, kind: Kind = "card") -> Finding:
        return Finding(kind, what, split.where)

    manifest = split.manifest
    if manifest.corpus != card.name:
        yield wrong(f"the corpus is {manifest.corpus}, the card's is {card.name}")
    if manifest.split not in card.splits:
        yield wrong(f"the card has no split {manifest.split}")
    expected = card.expected_counts().get(manifest.split)
    if expected is not None and manifest.samples != expected:
        yield wrong(f"split {manifest.split} has {manifest.samples} samples, the card expects {expected}", "count")
    for name in dict.fromkeys([*manifest.features, *card.features]):
        packed, described = manifest.features.get(name), card.features.get(name)
        if packed is None or described is None:
            yield wrong(f"only {'the card' if packed is None else 'the manifest'} describes features of {name}")
            continue
        dtype = "int32" if described.kind == "tokens" else described.dtype
        wanted = {"set": described.set, "kind": described.kind, "dtype": dtype, "dim": described.dim}
        for key, value in wanted.items():
            # A card may leave a width to the files.
            if value is not None and getattr(packed, key) != value:
                yield wrong(f"{name} has the {key} {getattr(packed, key)}, the card says {value}")
    for task in dict.fromkeys([*manifest.tasks, *card.tasks]):
        if manifest.tasks.get(task) != card.tasks.get(task):
            yield wrong(f"task {task} is not as the card describes it")


def compare_layout(split: CheckedSplit, first: CheckedSplit) -> Iterator[Finding]:
    """Two splits of one corpus, which must have the same features and tasks."""
    for key in ("corpus", "features", "tasks"):
        if getattr(split.manifest, key) != getattr(first.manifest, key):
            yield Finding("manifest", f"{key} differs from that of split {first.name}", split.where)
