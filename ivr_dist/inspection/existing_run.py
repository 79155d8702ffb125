"""What a run directory holds, and whether it is of the config that is asked for: looked at before workers start.

Whatever a directory answers, it answers for this config: its result is shown if it was trained with all of it, and its
checkpoints are continued if what makes them this run is the same. All else is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.state import CheckpointState
from ivr_dist.config import Config
from ivr_dist.config.loading import from_dict, to_dict
from ivr_dist.errors import CheckpointError, CheckpointMismatchError, CorruptDataError
from ivr_dist.planning.model_inputs import reading
from ivr_dist.planning.run_identity import Asked, compare, ids
from ivr_dist.run.attempts import lineage, read_attempts
from ivr_dist.run.paths import RunPaths
from ivr_dist.shards.manifest import Manifest
from ivr_dist.storage import shown

_ANEW = "choose another run.dir, or run.resume=never to train it anew"
_MOST_STEPS = 10**15


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_texts_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_STEPS


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(split, dict) and all(item is None or type(item) in (int, float) for item in split.values())
        for split in value.values()
    )


_LATER = ("manifests", "modalities", "not_used")
_RECORDED: Mapping[str, Callable[[Any], bool]] = {
    "config": lambda value: isinstance(value, dict),
    "manifests": _is_texts_by_name,
    "modalities": _is_texts,
    "not_used": _is_texts_by_name,
}
"""What makes a field of `run.json` sound."""
_SHOWN: Mapping[str, Callable[[Any], bool]] = {
    "status": _is_text,
    "checkpoint": _is_text,
    "steps": _is_count,
    "total_steps": _is_count,
    "attempts": _is_count,
    "modalities": _is_texts,
    "metrics": _are_metrics,
}
"""What makes a field of `result.json` sound."""


def record(config: Config, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """What `run.json` holds: the config, the data by the manifests' ids, and what is read of them."""
    read = reading(config, manifests["train"])
    return {
        "config": to_dict(config),
        "manifests": ids(manifests),
        "modalities": list(read.used),
        "not_used": dict(read.unused),
    }


def read_record(run_url: str) -> dict[str, Any]:
    """`run.json`; empty where there is none.

    Raises:
        CorruptDataError: It is not what a run writes.
    """
    return _read(RunPaths(run_url).record, _RECORDED) or {}


def recorded_config(run_url: str, found: Mapping[str, Any]) -> Config:
    """The config of a `run.json`.

    Raises:
        CorruptDataError: There is no `run.json`.
        ConfigError: This version does not know a key of the config.
    """
    url = RunPaths(run_url).record
    if not found:
        raise _damaged(url, "it is missing, so nothing tells which config the run is of")
    return from_dict(found["config"], where=storage.display(url))


def read_result(run_url: str) -> dict[str, Any] | None:
    """`result.json`, with its places as they are now: a run may have been moved since. None: the run has no result.

    Raises:
        CorruptDataError: It is not what a run writes.
    """
    url = RunPaths(run_url).result
    found = _read(url, _SHOWN)
    if found is None:
        return None
    name = store.CheckpointName.parse(found["checkpoint"].rstrip("/").rsplit("/", 1)[-1])
    if name is None:
        raise _damaged(url, "its checkpoint cannot be read")
    if found["steps"] > found["total_steps"]:
        raise _damaged(url, "it has more steps than it was to have")
    return {**found, "run": run_url, "checkpoint": name.url(run_url)}


def _read(url: str, fields: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any] | None:
    """One of the run's records; None where there is none."""
    if not storage.exists(url):
        return None
    try:
        found = storage.read_json(url)
    except CorruptDataError as error:
        raise _damaged(url, error.what) from error
    if not isinstance(found, dict):
        raise _damaged(url, "it is not an object")
    for name, sound in fields.items():
        # Records of older versions lack those that not every run needs.
        if not (sound(found[name]) if name in found else name in _LATER):
            raise _damaged(url, f"its {name} cannot be read")
    return found


def finished_result(config: Config, total_steps: int, manifests: Mapping[str, Manifest]) -> dict[str, Any] | None:
    """The result of a run that was trained to its end with this config; None where there is something to train.

    Args:
        config: What is asked for, its places absolute.
        total_steps: Where it ends.
        manifests: Of its splits.

    Raises:
        CheckpointMismatchError: The run is of another config; the text names every key that differs.
        CorruptDataError: The run's records cannot be read.
    """
    if config.run.resume != "auto":
        return None
    run_url = config.run.dir
    here = Asked(config, ids(manifests))
    result = read_result(run_url)
    if result is not None and result["total_steps"] == total_steps:
        said = compare(_finished(run_url, result), here, manifests["train"]).said(finished=True)
        if said:
            raise CheckpointMismatchError(f"{shown(run_url)} is a finished run of another config: {said}", remedy=_ANEW)
        return result
    state = _newest_state(run_url)
    if state is not None:
        said = compare(asked(state, run_url), here, manifests["train"]).said()
        if said:
            raise CheckpointMismatchError(f"{shown(run_url)} is a run of another config: {said}", remedy=_ANEW)
        check_length(state.step, total_steps, run_url)
    return None


def check_length(step: int, total_steps: int, run_url: str) -> None:
    """Refuse to end a run before where it is: its scores would be those of a longer training.

    Raises:
        CheckpointMismatchError: It has been trained for more steps already.
    """
    if step > total_steps:
        raise CheckpointMismatchError(
            f"{shown(run_url)} has been trained for {step} steps, and is to end after {total_steps} "
            "(train.epochs, train.max_steps)",
            remedy=_ANEW,
        )


def asked(state: CheckpointState, where: str) -> Asked:
    """The config and the data that a checkpoint was written with, from its `state.json`.

    Raises:
        ConfigError: This version does not know a key of the config.
    """
    return Asked(from_dict(dict(state.config), where=where), _known(state))


def _finished(run_url: str, result: Mapping[str, Any]) -> Asked:
    """The config that a result is of; the data by the checkpoint, where `run.json` is older than the ids in it."""
    found = read_record(run_url)
    config = recorded_config(run_url, found)
    return Asked(config, found.get("manifests") or _known(store.read_state(result["checkpoint"])))


def _known(state: CheckpointState) -> Mapping[str, str]:
    """Manifest ids that a checkpoint holds; one of an older version has that of the training split alone."""
    return state.manifests or {"train": "" if state.cursor is None else state.cursor.manifest_id}


def _newest_state(run_url: str) -> CheckpointState | None:
    """Of the newest checkpoint that counts and can be read; whether it is sound, the workers find out."""
    for name in store.in_lineage(store.names(run_url), lineage(read_attempts(run_url))):
        try:
            state = store.read_state(name.url(run_url))
            store.parts(name.url(run_url))
        except (CheckpointError, storage.NotFoundError):
            continue
        return state
    return None


def _damaged(url: str, why: str) -> CorruptDataError:
    return CorruptDataError(f"the record of the run cannot be read: {why}", where=storage.display(url), remedy=_ANEW)
