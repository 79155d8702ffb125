"""The layout of checkpoints in storage, and which of them are complete.

    RUN/checkpoints/step-00001200.a02/
        engine/...              what DeepSpeed wrote, each rank its own files
        model.safetensors       the full float32 weights, readable without DeepSpeed
        state.json              cursor, counters, metrics, config, feature statistics
        text_encoder/...        config and tokenizer of a pretrained text encoder, if the model has one
        part-00000.json ...     one a rank, written last: names, sizes and sha256 of that rank's files

A checkpoint is complete when the parts of all ranks are there and every file has the size and hash its part names.
Until then it is invisible: nothing ever reads it, and the next one is written beside it under another name. The
attempt is part of the name, so a worker of an attempt that was given up cannot write into a newer one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ivr_dist import storage
from ivr_dist.attempts import Span
from ivr_dist.errors import CheckpointError, IvrError

FORMAT = 1
STATE = "state.json"
WEIGHTS = "model.safetensors"
TEXT_ENCODER = "text_encoder"
_FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{8,})\.a(\d{2,})")


@dataclass(frozen=True, order=True)
class CheckpointName:
    """`step-00001200.a02`: completed steps, and the attempt that wrote it."""

    step: int
    attempt: int

    def __str__(self) -> str:
        return f"step-{self.step:08d}.a{self.attempt:02d}"

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """The name's numbers, or None for a directory that is not a checkpoint."""
        match = _NAME.fullmatch(text)
        return cls(int(match[1]), int(match[2])) if match else None

    def url(self, run_url: str) -> str:
        """Where this checkpoint of a run lies."""
        return storage.join(run_url, _FOLDER, str(self))


def write_part(url: str, rank: int, world: int, staged: Path) -> None:
    """Upload one rank's files, and its part manifest after them.

    Args:
        url: The checkpoint's directory.
        rank: This rank.
        world: Number of parts the checkpoint will have.
        staged: Local directory with this rank's files.
    """
    files = []
    for path in sorted(p for p in staged.rglob("*") if p.is_file()):
        name = path.relative_to(staged).as_posix()
        storage.upload(str(path), storage.join(url, *name.split("/")))
        files.append({"name": name, "size": path.stat().st_size, "sha256": _sha256_file(path)})
    part = {"format": FORMAT, "rank": rank, "world": world, "files": files}
    storage.write_json(storage.join(url, _part_name(rank)), part)


def verify(url: str) -> dict[str, Any]:
    """Check every byte of a checkpoint against its parts.

    Returns:
        The content of `state.json`.

    Raises:
        CheckpointError: It is not complete, or damaged; the text says what is missing or differs.
    """
    for entry in _files(url):
        data = storage.read_bytes(storage.join(url, *entry["name"].split("/")))
        if len(data) != entry["size"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise _torn(url, f"{entry['name']} is not what its part manifest says")
    return read_state(url)


def read_state(url: str) -> dict[str, Any]:
    """`state.json` of a checkpoint, without checking the other files."""
    target = storage.join(url, STATE)
    if not storage.exists(target):
        raise CheckpointError("no checkpoint here", where=url, remedy="give a directory named step-NNNNNNNN.aNN")
    state: dict[str, Any] = storage.read_json(target)
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"the checkpoint has format {state.get('format')}, this version reads {FORMAT}",
            where=url,
            remedy="read it with the version of ivr_dist that wrote it",
        )
    return state


def fetch(url: str, directory: Path) -> None:
    """Copy every file of a checkpoint to a local directory."""
    for entry in _files(url):
        target = directory / entry["name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.download(storage.join(url, *entry["name"].split("/")), str(target))


def names(run_url: str) -> list[CheckpointName]:
    """All checkpoint directories of a run, complete or not, newest first."""
    found = (CheckpointName.parse(name) for name in storage.list_dir(storage.join(run_url, _FOLDER)))
    return sorted((name for name in found if name is not None), reverse=True)


def counting(found: Sequence[CheckpointName], spans: Sequence[Span]) -> list[CheckpointName]:
    """Those checkpoints whose steps count: not what an attempt wrote after another one had forked off before it."""
    by_attempt = {span.attempt: span for span in spans}
    return [name for name in found if name.attempt in by_attempt and by_attempt[name.attempt].covers(name.step)]


def newest_complete(
    run_url: str, spans: Sequence[Span], note: Callable[[str], None]
) -> tuple[CheckpointName, dict[str, Any]] | None:
    """The newest complete checkpoint that counts, with its state; torn ones are passed over with a note each."""
    for name in counting(names(run_url), spans):
        try:
            return name, verify(name.url(run_url))
        except IvrError as error:
            note(f"checkpoint {name} is passed over: {error}")
    return None


def retain(run_url: str, spans: Sequence[Span], *, newest: CheckpointName, keep_last: int, best: str | None) -> None:
    """Delete old checkpoints after `newest` has become complete.

    Kept are the `keep_last` newest that count (`newest` always) and the one named `best`. Nothing newer than `newest`
    is touched: another attempt may be writing it.
    """
    found = [
        name
        for name in names(run_url)
        if name.attempt < newest.attempt or (name.attempt == newest.attempt and name.step <= newest.step)
    ]
    keep = {str(name) for name in counting(found, spans)[: max(keep_last, 1)]} | {str(newest), best}
    for name in found:
        if str(name) not in keep:
            storage.delete_tree(name.url(run_url))


def _files(url: str) -> Iterator[dict[str, Any]]:
    parts = sorted(name for name in storage.list_dir(url) if name.startswith("part-") and name.endswith(".json"))
    if not parts:
        raise _torn(url, "it has no part manifest")
    world = int(storage.read_json(storage.join(url, parts[0]))["world"])
    missing = [_part_name(rank) for rank in range(world) if _part_name(rank) not in parts]
    if missing:
        raise _torn(url, f"{missing[0]} is missing ({len(missing)} of {world} parts)")
    for part in parts:
        yield from storage.read_json(storage.join(url, part))["files"]


def _torn(url: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is not complete: {why}", where=url, remedy="resume from an earlier one (run.resume=auto does)"
    )


def _part_name(rank: int) -> str:
    return f"part-{rank:05d}.json"


def _sha256_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
