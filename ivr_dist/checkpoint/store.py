"""Checkpoint store: the layout of checkpoints in storage, completeness, verification and retention.

    RUN/checkpoints/step-00001200.a02/
        weights-00000.safetensors    one worker's share of the weights: runs of the flattened float32 parameters
        optimizer-00000.safetensors  the same runs of the optimizer state
        state.json                   `checkpoint.state`: cursor, progress, metrics, config, shapes, feature statistics
        text_encoder/...             config and tokenizer of a pretrained text encoder, if the model has one
        part-00000.json ...          one per worker, written last: its runs, size and sha256 of its files, and a
                                     checksum of itself

The files do not depend on ZeRO: any number of workers at any stage read the elements they need (decision 011).

A checkpoint is complete when the manifests of all parts are present and valid, name one checkpoint, cover each
parameter exactly once, and every file has the size and hash in its manifest; it needs no barrier and no marker file
(decision 012). Files that no manifest names are ignored. An incomplete checkpoint is never read, and the next one is
written beside it under another name. The attempt is part of the name, so a worker of an abandoned attempt cannot write
into a newer attempt's checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ivr_dist import storage
from ivr_dist.checkpoint import part_manifest
from ivr_dist.checkpoint.part_manifest import (
    FORMAT,
    STATE,
    TEXT_ENCODER,
    UNSEALED_FORMAT,
    WEIGHT,
    FileEntry,
    PartManifest,
    check_cover,
    check_shapes,
    check_together,
    optimizer_file,
    parse_object,
    part_name,
    to_text,
    weights_file,
)
from ivr_dist.checkpoint.safetensors_header import read_shapes
from ivr_dist.checkpoint.state import CheckpointState
from ivr_dist.common.decoder import DecodeError
from ivr_dist.errors import CheckpointError
from ivr_dist.run.attempts import Span
from ivr_dist.run.paths import CHECKPOINT_NAME, RunPaths
from ivr_dist.sanitize import shorten

__all__ = [
    "FORMAT",
    "STATE",
    "TEXT_ENCODER",
    "CheckpointName",
    "in_lineage",
    "is_complete",
    "is_whole",
    "names",
    "optimizer_file",
    "parts",
    "read_file",
    "read_state",
    "read_state_json",
    "retain",
    "verify",
    "weights_file",
    "write_part",
]

_CHUNK = 1 << 23
"""Bytes hashed at a time."""


@dataclass(frozen=True, order=True)
class CheckpointName:
    """`step-00001200.a02`: completed steps, and the attempt that wrote it."""

    step: int
    attempt: int

    def __str__(self) -> str:
        return CHECKPOINT_NAME.name(self.step, self.attempt)

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """Parse a directory name; None if it is not that of a checkpoint."""
        numbers = CHECKPOINT_NAME.parse(text)
        return cls(*numbers) if numbers else None

    def url(self, run_url: str) -> str:
        """Return the URL of this checkpoint of a run."""
        return RunPaths(run_url).checkpoint(str(self))


def write_part(
    url: str,
    rank: int,
    world: int,
    files: Mapping[str, Sequence[bytes | memoryview]],
    fragments: Sequence[Mapping[str, Any]],
    token: str = "",
) -> None:
    """Write one rank's files, then its part manifest.

    Args:
        url: The checkpoint's directory.
        rank: This rank.
        world: Number of parts the checkpoint will have.
        files: The files' names and contents.
        fragments: Entries of their tensors, from `tensors.describe_fragments`.
        token: Equal on all ranks, and different for another checkpoint with the same name.
    """
    written = []
    for name, content in files.items():
        storage.write_buffers(storage.join(url, *name.split("/")), content)
        digest = hashlib.sha256()
        for buffer in content:
            digest.update(buffer)
        size = sum(len(buffer) for buffer in content)
        written.append({"name": name, "size": size, "sha256": digest.hexdigest()})
    checkpoint = f"{url.rstrip('/').rpartition('/')[2]} {token}".strip()
    storage.write_text(storage.join(url, part_name(rank)), to_text(rank, world, checkpoint, written, fragments))


def parts(url: str) -> list[PartManifest]:
    """Read the manifests of all parts, by rank.

    Raises:
        CheckpointError: A part is missing, damaged, or of another checkpoint.
    """
    first = _part(url, 0)
    if first is None:
        raise _torn(url, f"it has no part manifest {part_name(0)}")
    with ThreadPoolExecutor(16) as pool:
        rest = list(pool.map(lambda rank: _part(url, rank), range(1, first.world)))
    missing = [part_name(rank) for rank, part in enumerate(rest, 1) if part is None]
    if missing:
        raise _torn(url, f"{missing[0]} is missing ({len(missing)} of {first.world} parts)")
    manifests = [first, *(part for part in rest if part is not None)]
    try:
        check_together(manifests)
    except ValueError as error:
        raise _torn(url, str(error)) from None
    return manifests


def _part(url: str, rank: int) -> PartManifest | None:
    target = storage.join(url, part_name(rank))
    try:
        return part_manifest.parse(storage.read_bytes(target), rank)
    except storage.NotFoundError:
        return None
    except part_manifest.UnknownFormatError as error:
        raise _other_format(url, error.format) from None
    except ValueError as error:
        raise _torn(url, f"{part_name(rank)} is damaged: {error}") from None


def is_whole(url: str, world: int) -> bool:
    """Whether the manifests of all parts exist; nothing is read."""
    return {part_name(rank) for rank in range(world)} <= set(storage.list_dir(url))


def is_complete(url: str) -> bool:
    """Whether all manifests are valid and all files have their sizes; the files' bytes are not read."""
    try:
        entries = [entry for part in parts(url) for entry in part.files]
    except CheckpointError:
        return False
    inside = [entry.name for entry in entries if "/" not in entry.name]
    below = [entry.name.partition("/")[2] for entry in entries if "/" in entry.name]
    sizes = storage.file_sizes(url, inside)
    if below:
        encoder_sizes = storage.file_sizes(storage.join(url, TEXT_ENCODER), below)
        sizes |= {f"{TEXT_ENCODER}/{name}": size for name, size in encoder_sizes.items()}
    return all(sizes.get(entry.name) == entry.size for entry in entries)


def verify(url: str, rank: int = 0, world: int = 1) -> CheckpointState:
    """Verify every byte of a checkpoint against its part manifests, and that these make one whole.

    Args:
        url: The checkpoint.
        rank: Number of the share of the files to check.
        world: Number of shares.

    Returns:
        The state, from `state.json`.

    Raises:
        CheckpointError: It is not complete, or damaged; the text says what is missing or differs.
    """
    manifests = parts(url)
    state = _state(url, manifests[0])
    try:
        check_cover(manifests, state.shapes)
    except ValueError as error:
        raise _torn(url, str(error)) from None
    files = [(part, entry) for part in manifests for entry in part.files]
    for part, entry in files[rank::world]:
        target = _target(url, entry)
        if _size(target) is None:
            raise _torn(url, f"{entry.name} is missing")
        if _size(target) != entry.size or _sha256(target, entry.size) != entry.sha256:
            raise _torn(url, f"{entry.name} is not what its part manifest says")
        try:
            _check_tensors(target, entry, part)
        except ValueError as error:
            raise _torn(url, f"{entry.name} does not hold the fragments of its part: {error}") from None
    return state


def read_state(url: str) -> CheckpointState:
    """Read `state.json` of a checkpoint, verified against its part manifest; the other files are not checked.

    Raises:
        CheckpointError: There is no checkpoint, or its state is missing, damaged or malformed.
    """
    return _state(url, _first_part(url))


def read_state_json(url: str) -> dict[str, Any]:
    """Read `state.json` as `read_state` does, but as the JSON object that is stored, for writing it again."""
    return _state_json(url, _first_part(url))


def _first_part(url: str) -> PartManifest:
    first = _part(url, 0)
    if first is None:
        remedy = "give a directory named step-NNNNNNNN.aNN"
        if storage.holds_files(storage.join(url, STATE)):
            raise _torn(url, f"it has no part manifest {part_name(0)}")
        raise CheckpointError("no checkpoint here", where=storage.display(url), remedy=remedy)
    return first


def read_file(url: str, entry: FileEntry) -> bytes:
    """Read a file of a checkpoint and verify it against its part manifest.

    Raises:
        CheckpointError: It is missing or differs.
    """
    try:
        data = storage.read_bytes(_target(url, entry))
    except storage.NotFoundError:
        raise _torn(url, f"{entry.name} is missing") from None
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise _torn(url, f"{entry.name} is not what its part manifest says")
    return data


def _state(url: str, first: PartManifest) -> CheckpointState:
    try:
        return CheckpointState.from_json(_state_json(url, first))
    except DecodeError as error:
        raise CheckpointError(
            f"{STATE} is not of the expected form: {error}",
            where=storage.display(url),
            remedy="use a checkpoint that this version of ivr_dist wrote",
        ) from None


def _state_json(url: str, first: PartManifest) -> dict[str, Any]:
    entry = next((entry for entry in first.files if entry.name == STATE), None)
    if entry is None:
        raise _torn(url, f"{part_name(0)} does not name {STATE}")
    data = read_file(url, entry)
    try:
        state = parse_object(data)
        if state.get("format") != first.format:
            raise ValueError(f"its format is {shorten(str(state.get('format')), 20)}, that of its part {first.format}")
        check_shapes(state.get("shapes", {}))
    except ValueError as error:
        raise _torn(url, f"{STATE} is damaged: {error}") from None
    return state


def _target(url: str, entry: FileEntry) -> str:
    return storage.join(url, *entry.name.split("/"))


def _size(target: str) -> int | None:
    try:
        return storage.size(target)
    except storage.NotFoundError:
        return None


def _check_tensors(target: str, entry: FileEntry, part: PartManifest) -> None:
    """Check that a tensor file holds the fragments of its part.

    Raises:
        ValueError: It does not.
    """
    if not part.fragments or entry.name not in (weights_file(part.rank), optimizer_file(part.rank)):
        return
    shapes = read_shapes(target, entry.size)
    for fragment in part.fragments:
        weight = entry.name == weights_file(part.rank)
        keys = [fragment.parameter] if weight else [f"{s}/{fragment.parameter}" for s in fragment.states if s != WEIGHT]
        for key in keys:
            if shapes.get(key) != [fragment.numel]:
                raise ValueError(f"{key} has the shape {shapes.get(key)}, not [{fragment.numel}]")


def names(run_url: str) -> list[CheckpointName]:
    """List all checkpoint directories of a run, complete or not, newest first."""
    parsed = (CheckpointName.parse(name) for name in storage.list_dir(RunPaths(run_url).checkpoints))
    return sorted((name for name in parsed if name is not None), reverse=True)


def in_lineage(candidates: Sequence[CheckpointName], spans: Sequence[Span]) -> list[CheckpointName]:
    """Select the checkpoints whose steps count; those beyond the fork of a later attempt do not."""
    by_attempt = {span.attempt: span for span in spans}
    return [name for name in candidates if name.attempt in by_attempt and by_attempt[name.attempt].covers(name.step)]


def retain(
    run_url: str,
    spans: Sequence[Span],
    *,
    newest: CheckpointName,
    keep_last: int,
    best: str | None,
    keep_every: int | None = None,
) -> None:
    """Delete old checkpoints after `newest` has become complete.

    Keeps the `keep_last` newest that count (`newest` always), the one named `best`, and those whose step is a multiple
    of `keep_every`. Deletes incomplete ones, left by a worker that could not write its part. Never touches
    anything newer than `newest`: another attempt may be writing it.
    """
    candidates = [
        name
        for name in names(run_url)
        if name.attempt < newest.attempt or (name.attempt == newest.attempt and name.step <= newest.step)
    ]
    keep, last = {str(newest), best}, 0
    for name in in_lineage(candidates, spans):
        multiple = keep_every is not None and name.step % keep_every == 0
        if (last < keep_last or multiple) and (name == newest or is_complete(name.url(run_url))):
            last += 1
            keep.add(str(name))
    for name in candidates:
        if str(name) not in keep:
            storage.delete_tree(name.url(run_url))


def _torn(url: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is not complete: {why}", where=url, remedy="resume from an earlier one (run.resume=auto does)"
    )


def _sha256(url: str, size: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, _CHUNK):
        digest.update(storage.read_range(url, start, min(start + _CHUNK, size)))
    return digest.hexdigest()


def _other_format(url: str, format_: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint has format {format_}, this version reads {UNSEALED_FORMAT} and {FORMAT}",
        where=url,
        remedy="read it with the version of ivr_dist that wrote it",
    )
