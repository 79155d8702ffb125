"""Modified packed data, with index and manifest updated to match."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ivr_dist.shards.index import ShardIndex, build_index
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_hashes import HASHES_NAME
from ivr_dist.shards.tar import TarWriter

Members = list[tuple[str, bytes]]
"""Names and contents of tar members."""


def members(tar: Path) -> Members:
    """The members of a tar."""
    with tarfile.open(tar) as archive:
        return [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]


def write_tar(tar: Path, content: Members) -> None:
    """Write a tar as `pack` does."""
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for name, data in content:
        writer.add(name, data)
    writer.close()
    tar.write_bytes(buffer.getvalue())


def refit(place: Path, number: int = 0, index: ShardIndex | None = None) -> None:
    """Make a shard's index and the manifest fit the shard as it is now; what they count is left out.

    Args:
        place: The split.
        number: Of the shard.
        index: Is written instead of the right one.
    """
    manifest = Manifest.load(str(place))
    entry = manifest.shards[number]
    data = (place / entry.name).read_bytes()
    index = build_index(data) if index is None else index
    (place / entry.index.name).write_bytes(index.to_bytes())
    entry = replace(
        entry,
        samples=len(index.keys),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        index=replace(entry.index, bytes=len(index.to_bytes()), sha256=hashlib.sha256(index.to_bytes()).hexdigest()),
    )
    shards = [entry if place_ == number else shard for place_, shard in enumerate(manifest.shards)]
    samples = sum(shard.samples for shard in shards)
    (place / HASHES_NAME).unlink(missing_ok=True)
    replace(manifest, shards=shards, samples=samples, transcripts=0, labels={}, hashes=None).save(str(place))


def with_manifest(place: Path, **changes: Any) -> None:
    """Write the manifest of a split with other fields."""
    replace(Manifest.load(str(place)), **changes).save(str(place))


def change_members(place: Path, change: Callable[[Members], Members], number: int = 0) -> None:
    """Change the members of a shard; index and manifest are made to fit."""
    tar = place / Manifest.load(str(place)).shards[number].name
    write_tar(tar, change(members(tar)))
    refit(place, number)


def change_json(place: Path, sample: int, number: int = 0, **changes: Any) -> None:
    """Set keys in the JSON of the sample with this number in a shard."""

    def change(content: Members) -> Members:
        name, data = [member for member in content if member[0].endswith(".json")][sample]
        changed = json.dumps({**json.loads(data), **changes}).encode()
        return [(name, changed) if member[0] == name else member for member in content]

    change_members(place, change, number)


def change_array(place: Path, modality: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    """Change the first array of a modality in the first shard of a split."""

    def changed(content: Members) -> Members:
        name, data = next(member for member in content if member[0].endswith(f".{modality}.npy"))
        return [(name, npy(change(np.load(io.BytesIO(data))))) if member[0] == name else member for member in content]

    change_members(place, changed)


def tar_of(files: Sequence[tuple[str, bytes]]) -> bytes:
    """The bytes of a tar as `pack` writes it."""
    out = io.BytesIO()
    writer = TarWriter(out)
    for name, content in files:
        writer.add(name, content)
    writer.close()
    return out.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """A `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
