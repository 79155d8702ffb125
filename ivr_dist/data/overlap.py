"""Overlap of splits: training samples of a pool whose id, group (video) or text is scored in another split (leakage).

Only the hashes of the scored splits are held in memory; those of training splits are looked up where `pack` wrote
them. What follows from an overlap is decided here for the preflight of a pool (`data.mix.overlap`), and listed by
`ivr-dist verify`.

* Across corpora an equal id, group or text is a leak. Two cases are none: ids and groups that are whole numbers
  identify nothing outside their corpus, and where the own splits of a corpus share groups (they were split by clip),
  its groups say nothing.
* Within a corpus an equal text is no error, since published splits repeat texts; its training copy is dropped all the
  same where copies are. Groups within a corpus are the business of its card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ivr_dist.data.exclusions import Exclusions
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.data.sample_order import Int64Array, UInt64Array
from ivr_dist.errors import DataError
from ivr_dist.sanitize import shorten
from ivr_dist.shards.decode import decode_with_json
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_hashes import KINDS, HashTable, Kind
from ivr_dist.shards.splits import group_of

EXAMPLES = 3
"""Number of examples of an overlap."""
_SHOWN_TEXT = 48
_REMEDY = "pack without them, or set data.mix.overlap to drop (leaves the training copies out) or allow"
_NOUNS: Mapping[Kind, str] = {"group": "videos", "id": "samples", "text": "texts"}
"""In the order in which an error names them."""

Describe = Callable[["HashedSplit", Kind, Sequence[int]], Sequence[str]]
"""Looks up examples: the split, what is equal, and numbers of samples."""


@dataclass(frozen=True)
class HashedSplit:
    """A split with the hashes of its samples."""

    corpus: str
    """Name of its corpus, unique among the corpora that are compared."""
    split: str
    url: str
    manifest: Manifest
    table: HashTable

    @property
    def name(self) -> str:
        """Corpus and split, for messages."""
        return f"{self.corpus} {self.split}"


@dataclass(frozen=True)
class Overlap:
    """What a training split and a scored one have in common."""

    train: str
    """Names of the two splits, each `CORPUS SPLIT`."""
    scored: str
    own: bool
    """Whether both are of one corpus."""
    samples: int
    """Samples of the scored split."""
    ids: int
    """Samples of it whose id is in the training split."""
    groups: int
    """Groups of it that are in the training split."""
    texts: int
    """Samples of it whose text is in the training split."""
    comparable: int
    """Samples of it whose text is long enough to be compared."""
    divided: bool
    """Whether one of the corpora divides groups between its own splits, so that equal groups say nothing."""
    examples: Mapping[Kind, Sequence[str]] = field(default_factory=dict)
    """A few ids, groups and texts of the scored split."""

    @property
    def is_leak(self) -> bool:
        """Whether training on one and scoring the other measures what was learned by heart."""
        return bool(not self.own and (self.ids or self.texts or (self.groups and not self.divided)))

    def describe(self) -> str:
        """Describe the leak in one sentence, with examples."""
        counts = {"id": self.ids, "text": self.texts, "group": 0 if self.divided else self.groups}
        present = [kind for kind in _NOUNS if counts[kind]]
        parts = [f"{counts[kind]:,} {_NOUNS[kind].removesuffix('s' * (counts[kind] == 1))}" for kind in present]
        what = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
        named = self.examples.get(present[0], ())
        more = ", ..." if counts[present[0]] > len(named) else ""
        verb = "is" if len(present) == 1 and counts[present[0]] == 1 else "are"
        return f"{what} of {self.scored} {verb} trained on in {self.train}: {', '.join(named)}{more}"


@dataclass(frozen=True)
class Dropped:
    """Training samples of one corpus that `data.mix.overlap=drop` leaves out."""

    excluded: Exclusions
    by: Mapping[Kind, int]
    """Samples by reason; a sample may have several."""
    own: int
    """Samples whose only reason is a text of the own corpus' scored splits."""

    def describe(self, train: str, samples: int) -> str:
        """Describe it in one sentence."""
        reasons = ", ".join(f"{count:,} by {kind}" for kind, count in self.by.items() if count)
        own = f", {self.own:,} of them only for a text of its own valid or test" if self.own else ""
        return (
            f"data.mix.overlap=drop leaves out {len(self.excluded):,} of {samples:,} samples of {train}: {reasons}{own}"
        )


@dataclass(frozen=True)
class Overlaps:
    """The result of `find_overlaps`."""

    pairs: Sequence[Overlap]
    """Pairs of splits that have anything in common."""
    dropped: Mapping[str, Dropped]
    """By corpus: the training copies, where there are any."""

    @property
    def errors(self) -> list[DataError]:
        """The leaks, each as an error."""
        return [DataError(pair.describe(), remedy=_REMEDY) for pair in self.pairs if pair.is_leak]


def find_overlaps(
    trained: Sequence[HashedSplit], scored: Sequence[HashedSplit], describe: Describe | None = None
) -> Overlaps:
    """Find what training splits and scored splits have in common.

    The result depends on the hashes alone, so it is equal wherever it is computed.

    Args:
        trained: The training split of each corpus that is trained on.
        scored: Splits for validation and test, of those corpora and of held-out ones.
        describe: Looks up examples; None: `read_examples`, which reads a few samples of the scored splits.

    Raises:
        CorruptDataError: Hashes do not match their checksum.
        StorageError: They cannot be read.
    """
    rows = [{kind: _all_rows(split.table, kind) for kind in KINDS} for split in scored]
    divided = {
        train.corpus
        for train in trained
        for split, own in zip(scored, rows, strict=True)
        if split.corpus == train.corpus and train.table.find("group", np.unique(own["group"][:, 0]))[0].size
    } | {split.corpus for split in (*trained, *scored) if split.manifest.split_by == "clip"}
    pairs: list[Overlap] = []
    dropped: dict[str, Dropped] = {}
    for train in trained:
        found = {kind: train.table.find(kind, _union(own[kind][:, 0] for own in rows)) for kind in KINDS}
        for split, own in zip(scored, rows, strict=True):
            is_divided = bool({train.corpus, split.corpus} & divided)
            if pair := _compare(train, split, own, {kind: np.unique(found[kind][0]) for kind in KINDS}, is_divided):
                pairs.append(_with_examples(pair[0], split, pair[1], describe or read_examples))
        leaking = _leaking(train, scored, rows, divided)
        if copies := _copies(train, found, leaking):
            dropped[train.corpus] = copies
    return Overlaps(pairs, dropped)


def read_examples(split: HashedSplit, kind: Kind, numbers: Sequence[int]) -> list[str]:
    """Read ids, groups or the beginnings of texts of samples, from their shards."""
    reader = ShardReader(split.url, split.manifest, 0)
    try:
        stored = reader.stored(np.array(numbers, np.int64))
    finally:
        reader.close()
    named = []
    for each in stored:
        sample, metadata = decode_with_json(each.content, each.shard, each.key, ())
        named.append(_shown(kind, sample.id, metadata))
    return named


def _shown(kind: Kind, id_: str, metadata: Mapping[str, Any]) -> str:
    if kind == "id":
        return id_
    if kind == "group":
        return group_of(metadata, id_) or ""
    transcript = metadata.get("transcript")
    text = " ".join(transcript if isinstance(transcript, list) else str(transcript).split())
    return f'"{shorten(text, _SHOWN_TEXT)}" ({id_})'


def _all_rows(table: HashTable, kind: Kind) -> UInt64Array:
    """Read all rows of a kind, [n, 2]."""
    return np.concatenate([np.zeros((0, 2), np.uint64), *table.rows(kind)])


def _union(columns: Iterable[UInt64Array]) -> UInt64Array:
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *columns]))


def _compare(
    train: HashedSplit,
    split: HashedSplit,
    rows: Mapping[Kind, UInt64Array],
    trained: Mapping[Kind, UInt64Array],
    divided: bool,
) -> tuple[Overlap, dict[Kind, Int64Array]] | None:
    """Count what a scored split has in common with a training split.

    Args:
        train: The training split.
        split: The scored split.
        rows: Its rows by kind.
        trained: Hashes of any scored split that are in the training split, ascending and distinct.
        divided: Whether equal groups say nothing.

    Returns:
        The counts, and by kind the first row of each equal hash; None where there is nothing in common.
    """
    common = {kind: rows[kind][np.isin(rows[kind][:, 0], trained[kind])] for kind in KINDS}
    if not any(len(own) for own in common.values()):
        return None
    firsts = {kind: own[np.unique(own[:, 0], return_index=True)[1], 1].astype(np.int64) for kind, own in common.items()}
    overlap = Overlap(
        train=train.name,
        scored=split.name,
        own=train.corpus == split.corpus,
        samples=split.manifest.samples,
        ids=len(common["id"]),
        groups=len(firsts["group"]),
        texts=len(common["text"]),
        comparable=split.table.count("text"),
        divided=divided,
    )
    return overlap, firsts


def _with_examples(
    overlap: Overlap, split: HashedSplit, firsts: Mapping[Kind, Int64Array], describe: Describe
) -> Overlap:
    # The first samples of the split: an order by hash would mean nothing.
    chosen = {kind: np.sort(numbers)[:EXAMPLES].tolist() for kind, numbers in firsts.items() if numbers.size}
    examples = {kind: tuple(describe(split, kind, numbers)) for kind, numbers in chosen.items()}
    return replace(overlap, examples=examples)


def _leaking(
    train: HashedSplit, scored: Sequence[HashedSplit], rows: Sequence[Mapping[Kind, UInt64Array]], divided: set[str]
) -> dict[Kind, tuple[UInt64Array, UInt64Array]]:
    """Return by kind the hashes whose training copies are dropped: those of other corpora, and those of the own one."""
    own: dict[Kind, list[UInt64Array]] = {kind: [] for kind in KINDS}
    others: dict[Kind, list[UInt64Array]] = {kind: [] for kind in KINDS}
    for split, columns in zip(scored, rows, strict=True):
        is_own = split.corpus == train.corpus
        for kind in KINDS:
            if kind != "group" or not (is_own or {split.corpus, train.corpus} & divided):
                (own if is_own else others)[kind].append(columns[kind][:, 0])
    return {kind: (_union(others[kind]), _union(own[kind])) for kind in KINDS}


def _copies(
    train: HashedSplit,
    found: Mapping[Kind, tuple[UInt64Array, Int64Array]],
    leaking: Mapping[Kind, tuple[UInt64Array, UInt64Array]],
) -> Dropped | None:
    """Collect the training samples that have a leaking hash."""
    by: dict[Kind, Int64Array] = {}
    foreign: list[Int64Array] = []
    for kind in KINDS:
        hashes, numbers = found[kind]
        of_others, of_own = (np.isin(hashes, part) for part in leaking[kind])
        by[kind] = np.unique(numbers[of_others | of_own])
        foreign.append(numbers[of_others])
    excluded = Exclusions.of(np.concatenate(list(by.values())), train.manifest.id)
    if not excluded:
        return None
    only_own = len(excluded) - np.unique(np.concatenate(foreign)).size
    return Dropped(excluded, {kind: len(numbers) for kind, numbers in by.items()}, only_own)
