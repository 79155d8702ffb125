"""What a run directory holds, and whether it is of the config that is asked for: looked at before workers start.

Whatever a directory answers, it answers for this config: its result is shown if it was trained with all of it, and its
checkpoints are continued if what makes them this run is the same. All else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ivr_dist import storage
from ivr_dist.attempts import lineage, read_attempts
from ivr_dist.checkpoint import store
from ivr_dist.config import Config
from ivr_dist.config_file import from_dict, to_dict
from ivr_dist.data.manifest import Manifest
from ivr_dist.errors import CheckpointError, CheckpointMismatchError, CorruptDataError
from ivr_dist.modalities import reading
from ivr_dist.report import shown
from ivr_dist.run_identity import Asked, compare, ids

RECORD = "run.json"
RESULT = "result.json"
_ANEW = "choose another run.dir, or run.resume=never to train it anew"
_NEEDED = {"status": str, "checkpoint": str, "steps": int, "total_steps": int, "attempts": int, "metrics": dict}


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
    url = storage.join(run_url, RECORD)
    if not storage.exists(url):
        return {}
    found = storage.read_json(url)
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise _damaged(url, "it has no config")
    return found


def read_result(run_url: str) -> dict[str, Any] | None:
    """`result.json`, with its places as they are now: a run may have been moved since. None: the run has no result.

    Raises:
        CorruptDataError: It is not what a run writes.
    """
    url = storage.join(run_url, RESULT)
    if not storage.exists(url):
        return None
    found = storage.read_json(url)
    wrong = [name for name, kind in _NEEDED.items() if not isinstance(found, dict) or type(found.get(name)) is not kind]
    name = None if wrong else store.CheckpointName.parse(found["checkpoint"].rstrip("/").rsplit("/", 1)[-1])
    if name is None:
        raise _damaged(url, f"its {(wrong or ['checkpoint'])[0]} cannot be read")
    return {**found, "run": run_url, "checkpoint": name.url(run_url)}


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
        check_length(state["step"], total_steps, run_url)
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


def asked(state: Mapping[str, Any], where: str) -> Asked:
    """The config and the data that a checkpoint was written with, from its `state.json`.

    Raises:
        ConfigError: This version does not know a key of the config.
    """
    return Asked(from_dict(state["config"], where=where), _known(state))


def _finished(run_url: str, result: Mapping[str, Any]) -> Asked:
    """The config that a result is of; the data by the checkpoint, where `run.json` is older than the ids in it."""
    found = read_record(run_url)
    if not found:
        raise _damaged(storage.join(run_url, RECORD), "it is missing, so nothing tells which config the result is of")
    known = found.get("manifests") or _known(store.read_state(result["checkpoint"]))
    return Asked(from_dict(found["config"], where=storage.display(storage.join(run_url, RECORD))), known)


def _known(state: Mapping[str, Any]) -> dict[str, str]:
    """Manifest ids that a checkpoint holds; one of an older version has that of the training split alone."""
    known: dict[str, str] = state.get("manifests") or {"train": state.get("cursor", {}).get("manifest_id", "")}
    return known


def _newest_state(run_url: str) -> dict[str, Any] | None:
    """Of the newest checkpoint that counts and can be read; whether it is sound, the workers find out."""
    for name in store.counting(store.names(run_url), lineage(read_attempts(run_url))):
        try:
            state = store.read_state(name.url(run_url))
            store.parts(name.url(run_url))
        except (CheckpointError, storage.NotFoundError):
            continue
        return state
    return None


def _damaged(url: str, why: str) -> CorruptDataError:
    return CorruptDataError(f"the record of the run cannot be read: {why}", where=storage.display(url), remedy=_ANEW)
