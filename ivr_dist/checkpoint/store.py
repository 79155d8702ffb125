"""The layout of checkpoints in storage, and which of them are complete.

    RUN/checkpoints/step-00001200.a02/
        weights-00000.safetensors    one worker's share of the weights: runs of the flattened float32 parameters
        optimizer-00000.safetensors  the same runs of what the optimizer keeps
        state.json                   cursor, counters, metrics, config, shapes, feature statistics
        text_encoder/...             config and tokenizer of a pretrained text encoder, if the model has one
        part-00000.json ...          one a worker, written last: which runs it has, and size and sha256 of its files

The files say nothing of ZeRO: any number of workers at any stage read from them what they need.

A checkpoint is complete when the parts of all workers are there and every file has the size and hash its part names.
Until then it is invisible: nothing ever reads it, and the next one is written beside it under another name. The
attempt is part of the name, so a worker of an attempt that was given up cannot write into a newer one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ivr_dist import storage
from ivr_dist.attempts import Span
from ivr_dist.errors import CheckpointError
from ivr_dist.numbered import Numbered

FORMAT = 2
STATE = "state.json"
TEXT_ENCODER = "text_encoder"
_FOLDER = "checkpoints"
_CHUNK = 1 << 23
"""Bytes hashed at a time."""
_NAME = Numbered("step-{:08d}.a{:02d}")
_PART = Numbered("part-{:05d}.json")


@dataclass(frozen=True, order=True)
class CheckpointName:
    """`step-00001200.a02`: completed steps, and the attempt that wrote it."""

    step: int
    attempt: int

    def __str__(self) -> str:
        return _NAME.name(self.step, self.attempt)

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """The name's numbers, or None for a directory that is not a checkpoint."""
        numbers = _NAME.parse(text)
        return cls(*numbers) if numbers else None

    def url(self, run_url: str) -> str:
        """Where this checkpoint of a run lies."""
        return storage.join(run_url, _FOLDER, str(self))


def weights_file(rank: int) -> str:
    """Name of a part's weights."""
    return f"weights-{rank:05d}.safetensors"


def optimizer_file(rank: int) -> str:
    """Name of a part's optimizer state."""
    return f"optimizer-{rank:05d}.safetensors"


def write_part(
    url: str,
    rank: int,
    world: int,
    files: Mapping[str, Sequence[bytes | memoryview]],
    fragments: Sequence[Mapping[str, Any]],
) -> None:
    """Write one rank's files, and its part manifest after them.

    Args:
        url: The checkpoint's directory.
        rank: This rank.
        world: Number of parts the checkpoint will have.
        files: The files' names and contents.
        fragments: What `tensors.describe_fragments` says of the tensors in them.
    """
    written = []
    for name, content in files.items():
        storage.write_buffers(storage.join(url, *name.split("/")), content)
        digest = hashlib.sha256()
        for buffer in content:
            digest.update(buffer)
        size = sum(len(buffer) for buffer in content)
        written.append({"name": name, "size": size, "sha256": digest.hexdigest()})
    part = {"format": FORMAT, "rank": rank, "world": world, "files": written, "fragments": list(fragments)}
    storage.write_text(storage.join(url, _part_name(rank)), json.dumps(part))


def parts(url: str) -> list[dict[str, Any]]:
    """The part manifests by rank.

    Raises:
        CheckpointError: A part is missing.
    """
    found = {rank for (rank,) in _PART.found(url)}
    if not found:
        raise _torn(url, "it has no part manifest")
    first = storage.read_json(storage.join(url, _part_name(min(found))))
    if first.get("format") != FORMAT:
        raise _other_format(url, first.get("format"))
    missing = [_part_name(rank) for rank in range(int(first["world"])) if rank not in found]
    if missing:
        raise _torn(url, f"{missing[0]} is missing ({len(missing)} of {first['world']} parts)")
    return [storage.read_json(storage.join(url, _part_name(rank))) for rank in range(int(first["world"]))]


def is_whole(url: str, world: int) -> bool:
    """Whether all parts are there; their files are not looked at."""
    return {_part_name(rank) for rank in range(world)} <= set(storage.list_dir(url))


def verify(url: str, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """Check every byte of a checkpoint against its parts.

    Args:
        url: The checkpoint.
        rank: Which share of the files is checked, of
        world: as many shares.

    Returns:
        The content of `state.json`.

    Raises:
        CheckpointError: It is not complete, or damaged; the text says what is missing or differs.
    """
    files = [entry for part in parts(url) for entry in part["files"]]
    for entry in files[rank::world]:
        target = storage.join(url, *entry["name"].split("/"))
        if not storage.exists(target):
            raise _torn(url, f"{entry['name']} is missing")
        if storage.size(target) != entry["size"] or _sha256(target, entry["size"]) != entry["sha256"]:
            raise _torn(url, f"{entry['name']} is not what its part manifest says")
    return read_state(url)


def read_state(url: str) -> dict[str, Any]:
    """`state.json` of a checkpoint, without checking the other files."""
    target = storage.join(url, STATE)
    if not storage.exists(target):
        raise CheckpointError("no checkpoint here", where=url, remedy="give a directory named step-NNNNNNNN.aNN")
    state: dict[str, Any] = storage.read_json(target)
    if state.get("format") != FORMAT:
        raise _other_format(url, state.get("format"))
    return state


def names(run_url: str) -> list[CheckpointName]:
    """All checkpoint directories of a run, complete or not, newest first."""
    found = (CheckpointName.parse(name) for name in storage.list_dir(storage.join(run_url, _FOLDER)))
    return sorted((name for name in found if name is not None), reverse=True)


def counting(found: Sequence[CheckpointName], spans: Sequence[Span]) -> list[CheckpointName]:
    """Those checkpoints whose steps count: not what an attempt wrote after another one had forked off before it."""
    by_attempt = {span.attempt: span for span in spans}
    return [name for name in found if name.attempt in by_attempt and by_attempt[name.attempt].covers(name.step)]


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

    Kept are the `keep_last` newest that count (`newest` always), the one named `best`, and those whose step is a
    multiple of `keep_every`. Nothing newer than `newest` is touched: another attempt may be writing it.
    """
    found = [
        name
        for name in names(run_url)
        if name.attempt < newest.attempt or (name.attempt == newest.attempt and name.step <= newest.step)
    ]
    count = counting(found, spans)
    keep = {str(name) for name in count[: max(keep_last, 1)]} | {str(newest), best}
    keep |= {str(name) for name in count if keep_every and name.step % keep_every == 0}
    for name in found:
        if str(name) not in keep:
            storage.delete_tree(name.url(run_url))


def _torn(url: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is not complete: {why}", where=url, remedy="resume from an earlier one (run.resume=auto does)"
    )


def _part_name(rank: int) -> str:
    return _PART.name(rank)


def _sha256(url: str, size: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, _CHUNK):
        digest.update(storage.read_range(url, start, min(start + _CHUNK, size)))
    return digest.hexdigest()


def _other_format(url: str, found: Any) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint has format {found}, this version reads {FORMAT}",
        where=url,
        remedy="read it with the version of ivr_dist that wrote it",
    )
