"""Verification of packed data against manifests, indexes and card, and for leakage between splits; lists every problem.

Shards are read whole, a few at a time, each on its own thread; only hashes of id, group and text of every sample stay
in memory.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

from ivr_dist import storage
from ivr_dist.corpora.card import Card
from ivr_dist.data.overlap import Overlap
from ivr_dist.inspection.checks.findings import Finding
from ivr_dist.inspection.checks.leakage import Notice, groups_across_splits, overlaps_between, repeated_ids, shared
from ivr_dist.inspection.checks.shard import ShardReport, check_shard
from ivr_dist.inspection.checks.split import (
    CheckedSplit,
    compare_card,
    compare_counts,
    compare_hashes,
    compare_layout,
    open_split,
)
from ivr_dist.shards.splits import find_splits

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the split, the number of its samples that were checked and their total."""

_THREADS = 4


@dataclass(frozen=True)
class SplitResult:
    """One split that was verified; counts come from its manifest."""

    url: str
    corpus: str
    split: str
    manifest_id: str
    samples: int
    shards: int
    bytes: int
    """Size of shards and indexes."""
    groups: int
    """Number of groups (videos) in the shards."""
    ungrouped: int
    """Samples without a group: whether their videos are in other splits cannot be checked."""
    faults: int
    """Number of findings that concern this split alone."""


@dataclass(frozen=True)
class Verification:
    """Result of `verify`."""

    splits: list[SplitResult]
    findings: list[Finding]
    notices: list[Notice]
    overlaps: list[Overlap]
    """What training splits and the other splits have in common, of the same and of other corpora."""

    @property
    def ok(self) -> bool:
        """Whether there is no finding."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; the findings are `faults`."""
        return {
            "ok": self.ok,
            "splits": [asdict(split) for split in self.splits],
            "faults": [asdict(finding) for finding in self.findings],
            "notices": [asdict(notice) for notice in self.notices],
            "overlaps": [asdict(overlap) for overlap in self.overlaps],
        }


def verify(
    urls: Sequence[str],
    card: Card | None = None,
    progress: Progress = lambda split, done, total: None,
) -> Verification:
    """Check packed data.

    Args:
        urls: Splits or folders of splits. The splits of one folder are a corpus: no id and no group may be in two of
            them. What several corpora have in common is no problem of either, and listed as overlaps.
        card: Card that the corpus must match; None: the data is only checked against its own manifests.
        progress: Called after every shard.

    Raises:
        DataError: There is no packed data at a URL.
        StorageError: A folder cannot be listed. A file that cannot be read is a finding instead.
    """
    # Checks collect findings instead of raising at the first one, as the reader does: decision 032.
    # The same split may be given twice, as itself and by its folder.
    by_url = {_normalized(split): split for url in urls for split in find_splits(url)}
    split_urls = list(by_url.values())
    opened = [open_split(url) for url in split_urls]
    findings = [one for one in opened if isinstance(one, Finding)]
    splits = [one for one in opened if isinstance(one, CheckedSplit)]
    logger.info("verifying %d splits, %d shards", len(splits), sum(len(split.manifest.shards) for split in splits))
    _read_shards(splits, progress)
    corpora: dict[str, list[CheckedSplit]] = {}
    for split in splits:
        corpora.setdefault(split.parent, []).append(split)
    for split in splits:
        _finish(split, corpora[split.parent][0], card)
        findings += split.findings
    for url in urls:
        if card is not None and _normalized(url) not in by_url:
            findings += _missing_splits(url, splits, list(by_url), card)
    notices: list[Notice] = []
    for members in corpora.values():
        findings += repeated_ids(members)
        divided = list(groups_across_splits(members))
        if divided and any(split.manifest.split_by == "clip" for split in members):
            names = [finding.what for finding in divided]
            what = (
                f"{members[0].manifest.corpus} is split by clip: {len(divided)} groups (videos) are in several splits"
            )
            notices.append(Notice(f"{what}, so results say little about new videos", names))
        else:
            findings += divided
    notices += [notice for split in splits for notice in _other_corpora(split)]
    results = [_result(split) for split in splits]
    return Verification(results, findings, [*notices, *shared(corpora)], overlaps_between(corpora))


def _normalized(url: str) -> str:
    return storage.absolute(url).rstrip("/")


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
    """Add the findings that need the reports of all shards."""
    for report in split.reports:
        split.findings += report.findings
    split.findings += compare_counts(split)
    split.findings += compare_layout(split, first)
    split.findings += compare_hashes(split)
    if card is not None:
        split.findings += compare_card(split, card)


def _missing_splits(
    url: str, splits: Sequence[CheckedSplit], split_urls: Sequence[str], card: Card
) -> Iterator[Finding]:
    """Find the splits of a card that a folder lacks; an unreadable split is known by the name of its folder."""
    present = {split.name for split in splits} | {split_url.rpartition("/")[2] for split_url in split_urls}
    for name in card.splits:
        if name not in present:
            yield Finding("card", f"the card's split {name} is missing", storage.display(url))


def _other_corpora(split: CheckedSplit) -> Iterator[Notice]:
    """Report samples that name another corpus, as after `index --corpus`."""
    corpora: Counter[str] = Counter()
    for report in split.reports:
        corpora.update(report.corpora)
    for corpus, count in corpora.items():
        if corpus != split.manifest.corpus:
            what = f"{count} samples of {split.manifest.corpus} {split.name} name the corpus {corpus}"
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
        ungrouped=sum(len(report.hashes) for report in split.reports) - split.groups.total(),
        faults=len(split.findings),
    )
