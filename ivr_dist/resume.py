"""Where an attempt continues: the newest complete checkpoint that counts, found in storage."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ivr_dist import attempts, storage
from ivr_dist.checkpoint import store, weights
from ivr_dist.config import Config
from ivr_dist.data.cursor import DataCursor
from ivr_dist.engine import Engine
from ivr_dist.errors import CheckpointMismatchError, UserError
from ivr_dist.loop import Counters


@dataclass(frozen=True)
class Resume:
    """What to continue from."""

    url: str = ""
    """The checkpoint; empty for a start from scratch."""
    parent: int | None = None
    """The attempt that wrote it; None from scratch and for a checkpoint of another run."""
    state: dict[str, Any] | None = None
    """Its `state.json`."""
    notes: tuple[str, ...] = ()
    """What the user should know: checkpoints that were passed over."""

    @property
    def own(self) -> str | None:
        """Name of the checkpoint, if it is one of this run."""
        return self.url.rstrip("/").rsplit("/", 1)[-1] if self.parent is not None else None


def find(config: Config, run_url: str, here: dict[str, Any], attempts_before: int) -> Resume:
    """Choose what to continue from, on one rank for all.

    Args:
        config: The run's config; `run.resume` says what the user wants.
        run_url: The run's directory.
        here: This run's model, features, tasks, world and stage, which the checkpoint must share.
        attempts_before: Attempts of the run when its driver started. If there are more by now, this is a retry after a
            fault: it continues the driver's own attempts, also where the user asked to start over.

    Raises:
        CheckpointMismatchError: The checkpoint is of another model or layout.
        CheckpointError: The checkpoint asked for is not complete.
    """
    past = attempts.read_attempts(run_url)
    choice = config.run.resume
    notes: list[str] = []
    if choice == "auto" or len(past) > attempts_before:
        found = store.newest_complete(run_url, attempts.lineage(past), notes.append)
        if found is not None:
            newest, state = found
            return _checked(Resume(newest.url(run_url), newest.attempt, state, tuple(notes)), here)
    if choice in ("auto", "never"):
        return Resume(notes=tuple(notes))
    url = storage.absolute(choice)
    if not storage.list_dir(url):
        raise UserError("there is no checkpoint", where=url, remedy="give run.resume a directory step-NNNNNNNN.aNN")
    name = store.CheckpointName.parse(url.rstrip("/").rsplit("/", 1)[-1])
    own = name is not None and name.url(run_url) == url
    return _checked(Resume(url, name.attempt if name and own else None, store.verify(url), tuple(notes)), here)


def _checked(source: Resume, here: dict[str, Any]) -> Resume:
    """Refuse a checkpoint that cannot be loaded here, before anything is built on it."""
    assert source.state is not None
    if "cursor" not in source.state:
        raise CheckpointMismatchError(
            "the checkpoint holds weights only, no run to continue",
            where=source.url,
            remedy="score it with `ivr-dist evaluate`, or start over with run.resume=never",
        )
    weights.check_same_model(source.state, here, source.url)
    for key, setting in (("world", "run.num_workers"), ("stage", "zero.stage")):
        there = source.state[key]
        # Stage 0 keeps the whole state on every rank, so its checkpoints load at any world size.
        if there != here[key] and not (key == "world" and source.state["stage"] == 0):
            raise CheckpointMismatchError(
                f"the checkpoint was written with {setting}={there}, this run has {setting}={here[key]}",
                where=source.url,
                remedy=f"continue with {setting}={there}, or start over with run.resume=never",
            )
    return source


def restore(start: DataCursor, engine: Engine, source: Resume) -> tuple[Counters, DataCursor]:
    """Load the engine from the checkpoint and return where training and data stand.

    Args:
        start: The cursor of a fresh start, which the checkpoint's must match in all but its position.
        engine: The engine to load.
        source: What `find` chose.

    Raises:
        CheckpointMismatchError: The checkpoint's data order is another one.
    """
    if source.state is None:
        return Counters(), start
    cursor = DataCursor.from_json(source.state["cursor"])
    cursor.check_matches(start)
    with tempfile.TemporaryDirectory(prefix="ivr-restore-") as scratch:
        store.fetch(source.url, Path(scratch))
        engine.load(Path(scratch))
    counters = Counters(**source.state["counters"])
    if source.parent is None:
        # The best checkpoint is another run's: this one starts its own comparison.
        counters = replace(counters, best=None, best_checkpoint=None, stale=0)
    return counters, cursor
