"""Leakage: ids, groups (videos) and texts that are in two splits.

Within a corpus an id or a group in two splits is a finding. What two corpora have in common is a notice, and counted
for each training split and each other split: it matters once they are pooled, where `data.mix.overlap` decides. Equal
texts are never a finding, since published splits repeat texts.

All are compared by hashes of 8 bytes, so that large corpora fit into memory; what matches is read again from its
shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.data.overlap import HashedSplit, Overlap, find_overlaps, read_examples
from ivr_dist.errors import IvrError
from ivr_dist.inspection.checks.findings import Finding
from ivr_dist.inspection.checks.shard import shard_ids
from ivr_dist.inspection.checks.split import CheckedSplit
from ivr_dist.shards.sample_hashes import Kind
from ivr_dist.shards.splits import SPLITS

_EXAMPLES = 3


@dataclass(frozen=True)
class Notice:
    """Something the user should know although the files are valid."""

    what: str
    names: list[str]
    """The groups, or the first few ids, that the notice is about."""


def repeated_ids(splits: Sequence[CheckedSplit]) -> Iterator[Finding]:
    """Find ids that occur more than once in a corpus, within one split or in several."""
    table = _IdTable(splits)
    occurrences: dict[str, list[tuple[CheckedSplit, str]]] = {}
    for id_, split, shard in table.named(table.repeated()):
        occurrences.setdefault(id_, []).append((split, shard))
    for id_, locations in occurrences.items():
        if len(locations) > 1:
            names = list(dict.fromkeys(split.name for split, _ in locations))
            what = f"the splits {' and '.join(names)}" if len(names) > 1 else f"split {names[0]}"
            where = ", ".join(dict.fromkeys(shard for _, shard in locations))
            yield Finding("duplicate", f"sample id {id_} occurs {len(locations)} times, in {what}", where)


def groups_across_splits(splits: Sequence[CheckedSplit]) -> Iterator[Finding]:
    """Find groups that are in several splits of a corpus."""
    names: dict[str, list[str]] = {}
    for split in splits:
        for group in split.groups:
            names.setdefault(group, []).append(split.name)
    for group, in_splits in names.items():
        if len(in_splits) > 1:
            what = f"group {group} is in the splits {' and '.join(in_splits)}"
            yield Finding("group", what, storage.display(splits[0].parent))


def shared(corpora: Mapping[str, Sequence[CheckedSplit]]) -> Iterator[Notice]:
    """Find groups and ids that two corpora share: pooled, a test sample of one may be a training sample of the other.

    Args:
        corpora: The splits of each corpus, by folder.
    """
    # Whole numbers identify nothing outside their corpus.
    groups = {
        parent: {name for split in splits for name in split.groups if not name.isdecimal()}
        for parent, splits in corpora.items()
    }
    tables = {parent: _IdTable(splits) for parent, splits in corpora.items()}
    for one, other in combinations(corpora, 2):
        both = f"{_corpus(one, corpora[one])} and {_corpus(other, corpora[other])}"
        if videos := sorted(groups[one] & groups[other]):
            yield Notice(f"{len(videos)} groups (videos) are in both {both}: {_examples(videos, len(videos))}", videos)
        hashes, positions, _ = np.intersect1d(tables[one].hashes, tables[other].hashes, return_indices=True)
        if len(hashes):
            names = [id_ for id_, _, _ in tables[one].named(positions[:_EXAMPLES])]
            yield Notice(f"{len(hashes)} sample ids are in both {both}: {_examples(names, len(hashes))}", names)
        first, second = (np.unique(_texts(corpora[parent])) for parent in (one, other))
        if count := np.intersect1d(first, second, assume_unique=True).size:
            yield Notice(f"{count} texts are in both {both}, of {first.size} and {second.size} long ones", [])


def overlaps_between(corpora: Mapping[str, Sequence[CheckedSplit]]) -> list[Overlap]:
    """Count what each training split and each other split have in common, within corpora and between them.

    Args:
        corpora: The splits of each corpus, by folder.
    """
    names = {parent: splits[0].manifest.corpus for parent, splits in corpora.items()}
    hashed = [
        HashedSplit(
            # Two folders may hold corpora of one name.
            names[parent] if list(names.values()).count(names[parent]) == 1 else storage.display(parent),
            split.name,
            split.url,
            split.manifest,
            split.hashes.table(),
        )
        for parent, splits in corpora.items()
        for split in splits
    ]
    trained = [split for split in hashed if split.split == SPLITS[0]]
    scored = [split for split in hashed if split.split != SPLITS[0]]
    return list(find_overlaps(trained, scored, _readable_examples).pairs)


def _readable_examples(split: HashedSplit, kind: Kind, numbers: Sequence[int]) -> Sequence[str]:
    try:
        return read_examples(split, kind, numbers)
    except IvrError:
        # Damage is among the findings.
        return ()


def _texts(splits: Sequence[CheckedSplit]) -> npt.NDArray[np.uint64]:
    texts = [report.hashes[:, 2] for split in splits for report in split.reports]
    joined: npt.NDArray[np.uint64] = np.concatenate([np.zeros(0, np.uint64), *texts])
    long: npt.NDArray[np.uint64] = joined[joined != 0]
    return long


class _IdTable:
    """Hashed ids of several splits, and the lookup of the ids behind the hashes."""

    def __init__(self, splits: Sequence[CheckedSplit]) -> None:
        self._shards = [(split, number) for split in splits for number in range(len(split.reports))]
        parts = [split.reports[number].hashes[:, 0] for split, number in self._shards]
        self._starts = np.cumsum([0, *map(len, parts)])
        self.hashes: npt.NDArray[np.uint64] = np.concatenate([np.zeros(0, np.uint64), *parts])

    def repeated(self) -> npt.NDArray[np.int64]:
        """Return the positions of hashes that occur more than once."""
        order = np.argsort(self.hashes, kind="stable")
        same = np.flatnonzero(self.hashes[order][1:] == self.hashes[order][:-1])
        return np.sort(order[np.union1d(same, same + 1)])

    def named(self, positions: npt.NDArray[np.int64]) -> Iterator[tuple[str, CheckedSplit, str]]:
        """Yield id, split and shard of the samples at these positions."""
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        for shard in np.unique(shards).tolist():
            split, number = self._shards[shard]
            entry = split.manifest.shards[number]
            ids = shard_ids(split.url, split.manifest, entry)
            where = storage.display(storage.join(split.url, entry.name))
            for position in positions[shards == shard].tolist():
                yield ids[position - int(self._starts[shard])], split, where


def _corpus(parent: str, splits: Sequence[CheckedSplit]) -> str:
    return f"{splits[0].manifest.corpus} ({storage.display(parent)})"


def _examples(names: Sequence[str], count: int) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", ..." if count > _EXAMPLES else "")
