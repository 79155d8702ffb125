"""Existing records of a run directory, compared with a config before workers start.

A result is shown only if the run was trained with this config, and a checkpoint is resumed only if the keys that
identify the run are the same. Otherwise the error names every key that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.state import CheckpointState
from ivr_dist.config import Config
from ivr_dist.config.loading import from_dict, to_dict
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.exclusions import NOTHING, describe, read_excluded
from ivr_dist.data.left_out import find_left_out
from ivr_dist.errors import CheckpointError, CheckpointMismatchError, CorruptDataError
from ivr_dist.planning.model_inputs import run_inputs
from ivr_dist.planning.run_identity import Experiment, compare, ids
from ivr_dist.run.attempts import lineage, read_attempts
from ivr_dist.run.paths import RunPaths
from ivr_dist.shards.manifest import Manifest
from ivr_dist.storage import short_display

_REMEDY = "choose another run.dir, or start over with run.resume=never"
_MAX_STEPS = 10**15


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_texts_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_STEPS


def _are_counts_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(split, dict) and all(item is None or type(item) in (int, float) for item in split.values())
        for split in value.values()
    )


_OPTIONAL = ("manifests", "modalities", "not_used", "init", "excluded")
_RECORD_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "config": lambda value: isinstance(value, dict),
    "manifests": _is_texts_by_name,
    "modalities": _is_texts,
    "not_used": _is_texts_by_name,
    "init": lambda value: isinstance(value, dict) and _are_counts_by_name(value.get("uses", {})),
}
"""Fields of `run.json` with the check of each."""
_RESULT_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "status": _is_text,
    "checkpoint": _is_text,
    "steps": _is_count,
    "total_steps": _is_count,
    "attempts": _is_count,
    "modalities": _is_texts,
    "metrics": _are_metrics,
    "excluded": _are_counts_by_name,
}
"""Fields of `result.json` with the check of each."""


def record(config: Config, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return the content of `run.json`: the config, the manifest ids of the data, and the modalities that are read."""
    inputs = run_inputs(config, manifests)
    return {
        "config": to_dict(config),
        "manifests": ids(manifests),
        "modalities": list(inputs.used),
        "not_used": dict(inputs.unused),
    }


def read_record(run_url: str) -> dict[str, Any]:
    """Read `run.json`; empty if it does not exist.

    Raises:
        CorruptDataError: The file is damaged.
    """
    return _read(RunPaths(run_url).record, _RECORD_FIELDS) or {}


def recorded_config(run_url: str, content: Mapping[str, Any]) -> Config:
    """Read the config of a `run.json`.

    Raises:
        CorruptDataError: There is no `run.json`.
        ConfigError: This version does not know a key of the config.
    """
    url = RunPaths(run_url).record
    if not content:
        raise _damaged(url, "it is missing, so the config of the run is unknown")
    return from_dict(content["config"], where=storage.display(url))


def read_result(run_url: str) -> dict[str, Any] | None:
    """Read `result.json`, with its paths adapted to where the run is now; None if the run has no result.

    Raises:
        CorruptDataError: The file is damaged.
    """
    url = RunPaths(run_url).result
    content = _read(url, _RESULT_FIELDS)
    if content is None:
        return None
    name = store.CheckpointName.parse(content["checkpoint"].rstrip("/").rsplit("/", 1)[-1])
    if name is None:
        raise _damaged(url, "its checkpoint is invalid")
    if content["steps"] > content["total_steps"]:
        raise _damaged(url, "it has more steps than total_steps")
    return {**content, "run": run_url, "checkpoint": name.url(run_url)}


def _read(url: str, fields: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any] | None:
    """Read and check a record of the run; None if it does not exist."""
    if not storage.exists(url):
        return None
    try:
        content = storage.read_json(url)
    except CorruptDataError as error:
        raise _damaged(url, error.what) from error
    if not isinstance(content, dict):
        raise _damaged(url, "it is not an object")
    for name, is_valid in fields.items():
        # Records of older versions lack the optional fields.
        if not (is_valid(content[name]) if name in content else name in _OPTIONAL):
            raise _damaged(url, f"its {name} is invalid")
    return content


def finished_result(config: Config, total_steps: int, manifests: Mapping[str, Manifest]) -> dict[str, Any] | None:
    """Return the result if the run was finished with this config; None if there is something to train.

    Args:
        config: Config of the command, with absolute paths.
        total_steps: Step at which training ends.
        manifests: Manifests of the config's splits.

    Raises:
        CheckpointMismatchError: The run has another config; the text names every key that differs.
        CorruptDataError: The run's records are damaged.
    """
    if config.run.resume != "auto":
        return None
    run_url = config.run.dir
    current = Experiment(config, ids(manifests))
    result = read_result(run_url)
    if result is not None and result["total_steps"] == total_steps:
        differences = compare(_finished(run_url, result), current, manifests).describe(finished=True)
        if differences:
            raise CheckpointMismatchError(
                f"{short_display(run_url)} is a finished run of another config: {differences}", remedy=_REMEDY
            )
        _check_left_out(config, manifests)
        return result
    state = _newest_state(run_url)
    if state is not None:
        differences = compare(recorded_experiment(state, run_url), current, manifests).describe()
        if differences:
            raise CheckpointMismatchError(
                f"{short_display(run_url)} is a run of another config: {differences}", remedy=_REMEDY
            )
        _check_left_out(config, manifests)
        check_length(state.step, total_steps, run_url)
    return None


def _check_left_out(config: Config, manifests: Mapping[str, Manifest]) -> None:
    """Refuse to go on with a run, or to show its result, that leaves out other samples.

    Raises:
        CheckpointMismatchError: It does; names the first split.
    """
    left_out = find_left_out(config, manifests, check=False)
    for name, manifest in manifests.items():
        there = read_excluded(config.run.dir, manifest.id)
        here = left_out.splits.get(name, NOTHING)
        if there != here:
            what = f"{describe(there.digest)} of {name} there, {describe(here.digest)} here"
            raise CheckpointMismatchError(
                f"{short_display(config.run.dir)} is a run that leaves out other samples: {what}",
                remedy=_REMEDY,
            )


def check_length(step: int, total_steps: int, run_url: str) -> None:
    """Refuse to end a run before the step it has reached: its scores would be those of a longer training.

    Raises:
        CheckpointMismatchError: The run has been trained for more steps already.
    """
    if step > total_steps:
        raise CheckpointMismatchError(
            f"{short_display(run_url)} has been trained for {step} steps already, more than the {total_steps} of this "
            "config (train.epochs, train.max_steps)",
            remedy=_REMEDY,
        )


def recorded_experiment(state: CheckpointState, where: str) -> Experiment:
    """Return the config and data of a checkpoint, from its `state.json`.

    Raises:
        ConfigError: This version does not know a key of the config.
    """
    return Experiment(from_dict(dict(state.config), where=where), _manifest_ids(state))


def _finished(run_url: str, result: Mapping[str, Any]) -> Experiment:
    """Return config and data of a result; the data from its checkpoint if an older version wrote `run.json`."""
    content = read_record(run_url)
    config = recorded_config(run_url, content)
    return Experiment(config, content.get("manifests") or _manifest_ids(store.read_state(result["checkpoint"])))


def _manifest_ids(state: CheckpointState) -> Mapping[str, str]:
    """Return the manifest ids in a checkpoint; older versions stored only that of the training split."""
    return state.manifests or {"train": state.cursor.manifest_id if isinstance(state.cursor, DataCursor) else ""}


def _newest_state(run_url: str) -> CheckpointState | None:
    """Return the state of the newest readable checkpoint of the lineage; the workers verify its contents later."""
    for name in store.in_lineage(store.names(run_url), lineage(read_attempts(run_url))):
        try:
            state = store.read_state(name.url(run_url))
            store.parts(name.url(run_url))
        except (CheckpointError, storage.NotFoundError):
            continue
        return state
    return None


def _damaged(url: str, why: str) -> CorruptDataError:
    return CorruptDataError(f"a record of the run is damaged: {why}", where=storage.display(url), remedy=_REMEDY)
