"""Packed splits at a URL: the folder of one split, or the folder of all splits of a corpus."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ivr_dist import storage
from ivr_dist.errors import DataError
from ivr_dist.shards.manifest import MANIFEST_NAME

SPLITS = ("train", "valid", "test")
"""Usual names of splits, in the order in which they are shown."""

_VIDEO = re.compile(r"(?s)(.+)(?:\$_\$.*|\[\d+\])")


def find_splits(url: str) -> list[str]:
    """Find the URLs of packed splits: `url` itself, or the folders directly below it.

    A folder below that holds tars without a manifest counts as well: it is a split whose packing was interrupted. Where
    storage cannot list (HTTP), only the names in SPLITS are tried.

    Raises:
        DataError: There is no packed split.
    """
    if _has_manifest(url):
        return [url]
    names = storage.list_dir(url)
    below = [storage.join(url, name) for name in sorted(names or SPLITS, key=split_rank)]
    splits = [split for split in below if _has_manifest(split) or _tars(split)]
    if any(_has_manifest(split) for split in splits):
        return splits
    if splits or _tars(url):
        remedy = "index the tars with `ivr-dist index`, or finish the packing"
        raise DataError("tars without a manifest.json", where=storage.display(url), remedy=remedy)
    raise DataError(
        "no packed data here",
        where=storage.display(url),
        remedy="name the folder that `ivr-dist pack` wrote to, or one split of it (such as .../train)",
    )


def split_rank(name: str) -> tuple[int, str]:
    """Sort key of the names of splits: train, valid, test, then others."""
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)


def group_of(metadata: Mapping[str, Any], id_: str) -> str | None:
    """Return the group of a sample, which splits must not share (leakage), such as its video; None: unknown.

    `pack` writes it into the sample; in tars made elsewhere it is the part of an id before `$_$` (MMSA) or `[3]` (CMU
    SDK).

    Args:
        metadata: The sample's JSON.
        id_: Its id.
    """
    provenance = metadata.get("provenance")
    group = provenance.get("group") if isinstance(provenance, dict) else None
    if isinstance(group, str):
        return group
    match = _VIDEO.fullmatch(id_)
    return match[1] if match else None


def _has_manifest(url: str) -> bool:
    return storage.exists(storage.join(url, MANIFEST_NAME))


def _tars(url: str) -> list[str]:
    return [name for name in storage.list_dir(url) if name.endswith(".tar")]
