"""The list of `data.exclude`: ids of samples that a run must leave out, and where they are in its splits."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ivr_dist import storage
from ivr_dist.common import strict_json
from ivr_dist.common.file_signatures import decode_text
from ivr_dist.data.exclusions import Exclusions
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.sanitize import shorten
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_ids import id_of
from ivr_dist.shards.split_hashes import find_ids, first_ids

_MAX_CANDIDATES = 50_000
"""Number of ids that an unknown id is compared with."""
_SHOWN = 3
_FORMS = "write one id on each line, or corpus, a tab and the id; in a .jsonl file a string or {id, corpus}"


@dataclass(frozen=True, order=True)
class ListedId:
    """An entry of the list."""

    id: str
    corpus: str = ""
    """The corpus that it is meant for; empty: every corpus that has such an id."""


@dataclass(frozen=True)
class SourceSplit:
    """A split of the run."""

    corpus: str
    """Name of its corpus in the config; its own name where the config has none."""
    url: str
    manifest: Manifest

    def is_meant(self, entry: ListedId) -> bool:
        """Whether an entry concerns this split."""
        return entry.corpus in ("", self.corpus, self.manifest.corpus)


@dataclass(frozen=True)
class ResolvedList:
    """The samples of an exclude list."""

    splits: Mapping[str, Exclusions] = field(default_factory=dict)
    """By split, of those from which a sample is left out."""
    elsewhere: int = 0
    """Entries for corpora that the run does not read."""

    def describe(self, manifests: Mapping[str, Manifest]) -> list[str]:
        """Describe what is left out, a sentence each."""
        sentences = [
            f"data.exclude leaves out {len(listed)} of {manifests[name].samples} samples of {name}"
            for name, listed in self.splits.items()
        ]
        if self.elsewhere:
            sentences.append(f"{self.elsewhere} ids of data.exclude are of corpora that the run does not read")
        return sentences


def read_exclude_list(url: str) -> list[ListedId]:
    """Read an exclude list: distinct entries, in the order of the file.

    Raises:
        DataError: A line is not an entry, or there is none.
        StorageError: The file cannot be read.
    """
    where = storage.display(url)
    try:
        text = decode_text(storage.read_bytes(url))
    except storage.NotFoundError as error:
        raise DataError("the file of data.exclude is missing", where=where, remedy="correct data.exclude") from error
    except ValueError as error:
        raise DataError(f"the list is not text: {error}", where=where, remedy=_FORMS) from error
    is_json = url.lower().endswith((".jsonl", ".ndjson"))
    # Not `splitlines`, which also splits at characters that an id may contain.
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1)]
    entries = [
        _json_entry(line, f"{where}:{number}") if is_json else _text_entry(line, f"{where}:{number}")
        for number, line in lines
        if line.strip()
    ]
    if not entries:
        raise DataError("the list of data.exclude has no ids", where=where, remedy="leave data.exclude empty")
    return list(dict.fromkeys(entries))


def resolve_exclude_list(url: str, splits: Mapping[str, SourceSplit], *, strict: bool = True) -> ResolvedList:
    """Find the samples of an exclude list in the splits of a run.

    Args:
        url: The list.
        splits: All splits that the run reads, by name.
        strict: Whether an id that no split has is an error, unless it is meant for a corpus that is not read.

    Raises:
        DataError: No split has one of the ids; the text suggests similar ones.
        CorruptDataError: The hashes or an index of a split are damaged.
    """
    entries = read_exclude_list(url)
    known = [entry for entry in entries if any(split.is_meant(entry) for split in splits.values())]
    unfound = set(known)
    excluded: dict[str, Exclusions] = {}
    for name, split in splits.items():
        own = [entry for entry in known if split.is_meant(entry)]
        ids = list(dict.fromkeys(entry.id for entry in own))
        numbers = dict(zip(ids, find_ids(split.url, split.manifest, ids), strict=True))
        unfound -= {entry for entry in own if numbers[entry.id].size}
        listed = Exclusions.of(np.concatenate([np.zeros(0, np.int64), *numbers.values()]), split.manifest.id)
        if len(listed) == split.manifest.samples:
            raise DataError(
                f"data.exclude leaves out all {len(listed)} samples of {name}",
                where=storage.display(url),
                remedy="leave the split out of the config instead",
            )
        if len(listed):
            excluded[name] = listed
    if unfound and strict:
        raise _unknown(url, [entry for entry in entries if entry in unfound], splits)
    return ResolvedList(excluded, len(entries) - len(known))


def _text_entry(line: str, where: str) -> ListedId:
    first, tab, second = line.partition("\t")
    if not tab:
        return ListedId(line)
    if not first or not second or "\t" in second:
        raise DataError(f"{shorten(line, 40)!r} is not corpus, tab, id", where=where, remedy=_FORMS)
    return ListedId(second, first)


def _json_entry(line: str, where: str) -> ListedId:
    try:
        value: Any = strict_json.loads(line)
    except ValueError as error:
        raise DataError(f"the line is not JSON: {error}", where=where, remedy=_FORMS) from error
    content = value if isinstance(value, dict) else {"id": value}
    corpus = content.get("corpus", "")
    if "id" not in content or not isinstance(corpus, str) or not {"id", "corpus"} >= {*content}:
        raise DataError(f"{shorten(json.dumps(value), 40)} is not an id", where=where, remedy=_FORMS)
    try:
        return ListedId(id_of(content, "", ""), corpus)
    except CorruptDataError as error:
        raise DataError(error.what, where=where, remedy=_FORMS) from error


def _unknown(url: str, unfound: Sequence[ListedId], splits: Mapping[str, SourceSplit]) -> DataError:
    """Return the error for ids that no split has."""
    first = unfound[0]
    candidates: list[str] = []
    for split in splits.values():
        if split.is_meant(first):
            candidates += first_ids(split.url, split.manifest, _MAX_CANDIDATES - len(candidates))
    close = difflib.get_close_matches(first.id, candidates, n=_SHOWN)
    hint = f"did you mean {', '.join(close)}?" if close else f"ids look like {', '.join(candidates[:_SHOWN])}"
    names = ", ".join(entry.id for entry in unfound[:_SHOWN]) + (", ..." if len(unfound) > _SHOWN else "")
    what = f"no split has the samples {names} ({len(unfound)} ids)" if len(unfound) > 1 else f"no split has {names}"
    return DataError(f"data.exclude: {what}", where=storage.display(url), remedy=hint)
