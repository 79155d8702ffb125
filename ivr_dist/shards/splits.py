"""Packed splits at a place that a user names: one split's own folder, or the folder of all splits of a corpus."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ivr_dist import storage
from ivr_dist.errors import DataError
from ivr_dist.shards.manifest import MANIFEST_NAME

SPLITS = ("train", "valid", "test")
"""In the order in which they are shown, before any others."""

_VIDEO = re.compile(r"(?s)(.+)(?:\$_\$.*|\[\d+\])")


def find_splits(url: str) -> list[str]:
    """The places of packed splits: `url` itself, or the folders directly below it.

    A folder below that holds tars without a manifest counts too: it is a split whose packing was broken off. Where
    storage cannot list (HTTP), splits are looked for by the names in SPLITS.

    Raises:
        DataError: There is none.
    """
    if _has_manifest(url):
        return [url]
    names = storage.list_dir(url)
    below = [storage.join(url, name) for name in sorted(names or SPLITS, key=split_rank)]
    found = [place for place in below if _has_manifest(place) or _tars(place)]
    if any(_has_manifest(place) for place in found):
        return found
    if found or _tars(url):
        remedy = "index the tars with `ivr-dist index`, or finish the packing"
        raise DataError("tars without a manifest.json", where=storage.display(url), remedy=remedy)
    raise DataError(
        "no packed data here",
        where=storage.display(url),
        remedy="give the folder that `ivr-dist pack` wrote to, or one split of it (such as .../train)",
    )


def split_rank(name: str) -> tuple[int, str]:
    """Sorts names of splits: train, valid, test, then others."""
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)


def group_of(about: Mapping[str, Any], id_: str) -> str | None:
    """What must not be divided over splits, such as the video a sample was cut from; None: not known.

    It is what `pack` wrote down, or, in tars made elsewhere, the part of an id before `$_$` (MMSA) or `[3]` (CMU SDK).

    Args:
        about: The sample's JSON.
        id_: Its id.
    """
    provenance = about.get("provenance")
    group = provenance.get("group") if isinstance(provenance, dict) else None
    if isinstance(group, str):
        return group
    match = _VIDEO.fullmatch(id_)
    return match[1] if match else None


def _has_manifest(url: str) -> bool:
    return storage.exists(storage.join(url, MANIFEST_NAME))


def _tars(url: str) -> list[str]:
    return [name for name in storage.list_dir(url) if name.endswith(".tar")]
