"""Is packed data what its manifests, its indexes and its card say, and are its splits apart? Every fault is listed.

Shards are read whole, a few at a time, each by a thread of its own; of every sample only a hash of its id stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.inspection.checks.findings import Finding
from ivr_dist.inspection.checks.leakage import Notice, groups_across_splits, repeated_ids, shared
from ivr_dist.inspection.checks.shard import ShardReport, check_shard
from ivr_dist.inspection.checks.split import CheckedSplit, compare_card, compare_counts, compare_layout, open_split
from ivr_dist.shards.splits import find_splits

Progress = Callable[[str, int, int], None]
"""Called with the split, its samples checked and its samples in all."""

_THREADS = 4


@dataclass(frozen=True)
class SplitResult:
    """What was checked of one split; the numbers are its manifest's."""

    url: str
    corpus: str
    split: str
    manifest_id: str
    samples: int
    shards: int
    bytes: int
    """Of shards and indexes."""
    groups: int
    """Groups (videos) that were found."""
    ungrouped: int
    """Samples that do not say their group: nobody can tell whether their videos are in other splits."""
    faults: int
    """Of this split alone."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    splits: list[SplitResult]
    faults: list[Finding]
    notices: list[Notice]

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON values."""
        return {"ok": self.ok, **asdict(self)}


def verify(
    urls: Sequence[str],
    card: Card | None = None,
    progress: Progress = lambda split, done, total: None,
) -> Verification:
    """Check packed data.

    Args:
        urls: Each a split or a folder of splits. The splits of one folder are a corpus: no id and no group may be in
            two of them.
        card: What the corpus must be; None: only what the data says of itself is checked.
        progress: Called now and then.

    Raises:
        DataError: There is no packed data at a URL.
        StorageError: A place cannot be looked at. A file that cannot be read is a fault.
    """
    # One split can be named in several ways.
    places = list({storage.absolute(place).rstrip("/"): place for url in urls for place in find_splits(url)}.values())
    opened = [open_split(place) for place in places]
    faults = [found for found in opened if isinstance(found, Finding)]
    splits = [found for found in opened if isinstance(found, CheckedSplit)]
    _read_shards(splits, progress)
    corpora: dict[str, list[CheckedSplit]] = {}
    for split in splits:
        corpora.setdefault(split.parent, []).append(split)
    for split in splits:
        _finish(split, corpora[split.parent][0], card)
        faults += split.faults
    for url in urls:
        if card is not None and url not in places:
            faults += _lost_splits(url, splits, places, card)
    for members in corpora.values():
        faults += [*repeated_ids(members), *groups_across_splits(members)]
    notices = [notice for split in splits for notice in _other_corpora(split)]
    return Verification([_result(split) for split in splits], faults, [*notices, *shared(corpora)])


def _read_shards(splits: Sequence[CheckedSplit], progress: Progress) -> None:
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="ivr-verify")
    try:
        jobs: dict[Future[ShardReport], tuple[CheckedSplit, int]] = {}
        for split in splits:
            split.reports = [ShardReport() for _ in split.manifest.shards]
            for number, entry in enumerate(split.manifest.shards):
                jobs[pool.submit(check_shard, split.url, split.manifest, entry)] = split, number
        done: Counter[str] = Counter()
        for job in as_completed(jobs):
            split, number = jobs[job]
            split.reports[number] = job.result()
            done[split.url] += split.manifest.shards[number].samples
            progress(f"{split.manifest.corpus} {split.name}", done[split.url], split.manifest.samples)
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(split: CheckedSplit, first: CheckedSplit, card: Card | None) -> None:
    """Add the faults that show once all shards are read."""
    for report in split.reports:
        split.faults += report.faults
    split.faults += compare_counts(split)
    split.faults += compare_layout(split, first)
    if card is not None:
        split.faults += compare_card(split, card)


def _lost_splits(url: str, splits: Sequence[CheckedSplit], places: Sequence[str], card: Card) -> Iterator[Finding]:
    """The splits of a card that a folder of splits does not have; what cannot be read goes by the folder's name."""
    present = {split.name for split in splits} | {place.rpartition("/")[2] for place in places}
    for name in card.splits:
        if name not in present:
            yield Finding("card", f"the card's split {name} is not there", storage.display(url))


def _other_corpora(split: CheckedSplit) -> Iterator[Notice]:
    """Samples that name another corpus, as after `index --corpus`."""
    found: Counter[str] = Counter()
    for report in split.reports:
        found.update(report.corpora)
    for corpus, count in found.items():
        if corpus != split.manifest.corpus:
            what = f"{count} samples of {split.manifest.corpus} {split.name} say that their corpus is {corpus}"
            yield Notice(what, [corpus])


def _result(split: CheckedSplit) -> SplitResult:
    manifest = split.manifest
    return SplitResult(
        url=storage.display(split.url),
        corpus=manifest.corpus,
        split=manifest.split,
        manifest_id=manifest.id,
        samples=manifest.samples,
        shards=len(manifest.shards),
        bytes=sum(shard.bytes + shard.index.bytes for shard in manifest.shards),
        groups=len(split.groups),
        ungrouped=sum(len(report.ids) for report in split.reports) - split.groups.total(),
        faults=len(split.faults),
    )
