"""Resume: choose the checkpoint that an attempt continues, and restore progress, data position and optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ivr_dist import storage
from ivr_dist.checkpoint import store, weights
from ivr_dist.checkpoint.part_manifest import part_name
from ivr_dist.checkpoint.state import CheckpointState, Progress
from ivr_dist.checkpoint.tensors import open_tensors
from ivr_dist.config import Config
from ivr_dist.data.pool_cursor import PoolCursor
from ivr_dist.data.run_order import RunOrder
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.errors import CheckpointError, CheckpointMismatchError, CorruptDataError, IvrError, UserError
from ivr_dist.inspection.existing_run import recorded_experiment
from ivr_dist.planning.run_identity import Change, Experiment, compare
from ivr_dist.run import attempts
from ivr_dist.runtime import collectives
from ivr_dist.shards.manifest import Manifest


@dataclass(frozen=True)
class Resume:
    """The checkpoint to continue from, if any."""

    url: str = ""
    """The checkpoint; empty for a start from scratch."""
    parent: int | None = None
    """The attempt that wrote it; None from scratch and for a checkpoint of another run."""
    state: CheckpointState | None = None
    """Its state."""
    notes: tuple[str, ...] = ()
    """Notes for the user about skipped checkpoints."""

    @property
    def own(self) -> str | None:
        """Name of the checkpoint if it belongs to this run, else None."""
        return self.url.rstrip("/").rsplit("/", 1)[-1] if self.parent is not None else None


def find(
    config: Config, run_url: str, here: CheckpointState, attempts_before: int, before: int | None = None
) -> Resume:
    """Choose the checkpoint to continue from; a collective call, since every rank verifies a share of the bytes.

    Args:
        config: The run's config; `run.resume` selects the checkpoint.
        run_url: The run's directory.
        here: This run's initial state, whose model, features and tasks the checkpoint must share.
        attempts_before: Attempts of the run when its driver started. If there are more by now, this is a retry after a
            fault: it continues the driver's own attempts, even if the config starts over.
        before: Checkpoints of more steps are not considered.

    Raises:
        CheckpointMismatchError: The checkpoint is of another model.
        CheckpointError: The selected checkpoint is not complete.
    """
    past = collectives.on_rank_zero(lambda: attempts.read_attempts(run_url))
    choice = config.run.resume
    notes: list[str] = []
    if choice == "auto" or len(past) > attempts_before:
        newest = _newest_complete(run_url, attempts.lineage(past), before, notes)
        if newest is not None:
            url = newest.url(run_url)
            return _checked(Resume(url, newest.attempt, _state(url), tuple(notes)), here)
    if choice in ("auto", "never"):
        return Resume(notes=tuple(notes))
    url = storage.absolute(choice)
    there = collectives.on_rank_zero(lambda: storage.list_dir(url))
    if not {store.STATE, part_name(0)} & {*there}:
        raise UserError("there is no checkpoint", where=url, remedy="give run.resume a directory step-NNNNNNNN.aNN")
    fault = damage(url)
    if fault:
        raise CheckpointError(fault, where=url, remedy="give another one, or run.resume=auto")
    name = store.CheckpointName.parse(url.rstrip("/").rsplit("/", 1)[-1])
    # The URL may lead through a symbolic link or a differently named mount.
    own = name is not None and collectives.on_rank_zero(lambda: storage.is_same_url(name.url(run_url), url))
    return _checked(Resume(url, name.attempt if name and own else None, _state(url), tuple(notes)), here)


def _newest_complete(
    run_url: str, spans: Sequence[attempts.Span], before: int | None, notes: list[str]
) -> store.CheckpointName | None:
    """Return the newest complete checkpoint in the lineage; damaged ones are skipped with a note each."""
    names = collectives.on_rank_zero(lambda: store.in_lineage(store.names(run_url), spans))
    for name in names:
        if before is not None and name.step > before:
            continue
        url = name.url(run_url)
        fault = damage(url)
        if not fault:
            return name
        # A server may still list the folder of a deleted checkpoint.
        if collectives.on_rank_zero(partial(storage.holds_files, url)):
            notes.append(f"checkpoint {name} is skipped: {fault}")
    return None


def damage(url: str) -> str:
    """Verify a checkpoint, each rank a share of it; return the first problem of any rank, empty if there is none.

    Raises:
        StorageError: It cannot be read at present, so it is neither sound nor damaged.
    """
    problem, failed = "", None
    try:
        store.verify(url, collectives.rank(), collectives.world_size())
    except (CheckpointError, CorruptDataError, storage.NotFoundError) as error:
        problem = error.what
    except IvrError as error:  # raised again by raise_together, on all ranks
        failed = error
    collectives.raise_together(failed)
    return next((text for text in collectives.gather(problem) if text), "")


def _state(url: str) -> CheckpointState:
    return collectives.on_rank_zero(lambda: store.read_state(url))


def _checked(source: Resume, here: CheckpointState) -> Resume:
    """Refuse a checkpoint that does not fit this run, before anything is built from it."""
    assert source.state is not None
    if source.state.cursor is None or source.state.progress is None:
        raise CheckpointMismatchError(
            "the checkpoint holds weights only, no run to continue",
            where=source.url,
            remedy="score it with `ivr-dist evaluate`, or start over with run.resume=never",
        )
    weights.check_same_model(source.state, here, source.url)
    return source


def changes(source: Resume, here: Experiment, manifests: Mapping[str, Manifest]) -> tuple[Change, ...]:
    """List config changes since a checkpoint was written that leave it the same run.

    Args:
        source: The result of `find`.
        here: This run's config and data.
        manifests: Manifests of its splits.

    Raises:
        CheckpointMismatchError: Other keys have changed; the text names each.
    """
    if source.state is None:
        return ()
    difference = compare(recorded_experiment(source.state, source.url), here, manifests, borrowed=source.parent is None)
    if refused := difference.describe():
        raise CheckpointMismatchError(
            f"the checkpoint is of another config: {refused}",
            where=source.url,
            remedy="use its config again, or start over with run.resume=never or another run.dir",
        )
    return difference.listed


def position(order: RunOrder[Any], source: Resume, changes: bool) -> tuple[Progress, RunOrder[Any], Any]:
    """Return the progress, the order to go on with, and the position in it to start from.

    Args:
        order: The order of a fresh start, which the checkpoint's must match in all but its position.
        source: The result of `find`.
        changes: Whether a pool may go on with another mix.

    Raises:
        CheckpointMismatchError: The checkpoint has another data order.
    """
    if source.state is None:
        return Progress(), order, order.start
    cursor, progress = source.state.cursor, source.state.progress
    assert cursor is not None and progress is not None, "checked by find"
    if type(cursor) is not type(order.start):
        raise CheckpointMismatchError(
            "the checkpoint was trained on several corpora, this run has one"
            if isinstance(cursor, PoolCursor)
            else "the checkpoint was trained on one corpus, this run has several",
            where=source.url,
            remedy="start a new run with train.init_from",
        )
    order, cursor = order.resumed(cursor, changes)
    if source.parent is None:
        # The best checkpoint belongs to another run: this run compares its own.
        progress = replace(progress, best=None, best_checkpoint=None, stale=0)
    return progress, order, cursor


def restore_optimizer(engine: Engine, source: Resume) -> None:
    """Restore the optimizer state of a checkpoint written at any ZeRO stage by any number of workers."""
    if source.state is not None:
        with open_tensors(source.url, source.state) as tensors:
            engine.restore(tensors)
