"""A model from a checkpoint, without DeepSpeed: for evaluation, prediction and new runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.fragments import saved_buffers
from ivr_dist.checkpoint.tensors import open_tensors
from ivr_dist.common import dotted_path
from ivr_dist.config import Config, extensions
from ivr_dist.config.loading import from_dict, to_dict
from ivr_dist.data.batches.collate import WORDS, BatchSpec
from ivr_dist.errors import CheckpointError, CheckpointMismatchError
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.model.text_encoder import TextEncoder
from ivr_dist.sanitize import hide_secrets
from ivr_dist.shards.specs import TaskSpec

CLASSES = "classes"
"""Key of `state.json`: classes outside the package, by the key of the config that names them; absent without any."""


def read_weights(url: str, *, verified: bool = False) -> dict[str, Tensor]:
    """The full float32 weights of a checkpoint, by the model's own names.

    Args:
        url: The checkpoint.
        verified: Whether `store.verify` has found it sound just now; else all of it is read and checked first.

    Raises:
        CheckpointError: It is not complete, or damaged.
    """
    state = store.read_state(url) if verified else store.verify(url)
    with open_tensors(url, state) as tensors:
        return {name: tensors.weight(name) for name in tensors.shapes}


def load_weights(model: nn.Module, url: str, *, verified: bool = False) -> None:
    """Put a checkpoint's weights into a model.

    Args:
        model: Where they go.
        url: The checkpoint.
        verified: As for `read_weights`.

    Raises:
        CheckpointError: The checkpoint is not complete, or damaged.
        CheckpointMismatchError: Names or shapes differ; the text names the first difference.
    """
    weights = read_weights(url, verified=verified)
    own = model_tensors(model)
    differing = sorted(own.keys() ^ weights.keys()) or [k for k in own if own[k].shape != weights[k].shape]
    if differing:
        name = differing[0]
        raise CheckpointMismatchError(
            f"the checkpoint is of another model: {name} is {_shape(weights, name)} there and {_shape(own, name)} here",
            where=url,
            remedy="use the config and the data set it was trained with",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of an unpartitioned model, by name; a tied parameter is there once."""
    return {**dict(model.named_parameters()), **saved_buffers(model)}


def describe_model(config: Config, spec: BatchSpec) -> dict[str, Any]:
    """What `state.json` must hold so that the model can be built and fed again."""
    # Not the size: it only says what other keys were where they were unset, and two sizes can be the same model.
    model = {name: value for name, value in to_dict(config)["model"].items() if name != "size"}
    # Checkpoints from before the key have none.
    if not model["class"]:
        del model["class"]
    return {
        **recorded_classes(config),
        "config": _without_secrets(to_dict(config)),
        "model": model,
        "features": {name: list(part) for name, part in spec.modalities.items()},
        "tasks": {name: asdict(task) for name, task in spec.tasks.items()},
        "statistics": {name: [part.tolist() for part in parts] for name, parts in spec.statistics.items()},
    }


def recorded_classes(config: Config) -> dict[str, Any]:
    """The record of the classes outside the package that a config names, with their versions; empty without any.

    Raises:
        ConfigError: One cannot be imported.
    """
    named = {reference.key: reference for reference in extensions.all_of(config)}
    records = {key: dotted_path.recorded(entry, dotted_path.import_class(entry)) for key, entry in named.items()}
    return {CLASSES: records} if records else {}


def changed_classes(state: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Classes whose version differs from that of a checkpoint, a sentence each.

    Args:
        state: The checkpoint's `state.json`.
        here: This run's values of it.
    """
    theirs = state.get(CLASSES)
    before: dict[str, Any] = theirs if isinstance(theirs, dict) else {}
    return [
        f"{key}: {record[dotted_path.CLASS]} is {record['version']} here, the checkpoint was written with "
        f"{before[key].get('version')}"
        for key, record in here.get(CLASSES, {}).items()
        if isinstance(before.get(key), dict)
        and before[key].get(dotted_path.CLASS) == record[dotted_path.CLASS]
        and before[key].get("version") != record["version"]
    ]


def _without_secrets(value: Any) -> Any:
    """A config without passwords and signatures in URLs: checkpoints are given to others."""
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items()}
    return hide_secrets(value) if isinstance(value, str) else value


def text_files(text: TextEncoder | None) -> Mapping[str, bytes]:
    """What a checkpoint must hold of a pretrained text encoder besides its weights, by name; nothing without one."""
    return {} if text is None else {f"{store.TEXT_ENCODER}/{name}": data for name, data in text.files().items()}


@contextmanager
def stored_text(url: str, state: dict[str, Any]) -> Iterator[TextEncoder | None]:
    """The text encoder of a checkpoint, from its own files: no hub and no folder is needed; None if it has none.

    Only files that the checkpoint's parts name are taken: what else lies beside them was written by someone else.
    """
    with _well_formed(url):
        words = state["features"].get("text", ("",))[0] == WORDS
    if not words:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ivr-text-") as scratch:
        for entry in (entry for part in store.parts(url) for entry in part.files):
            folder, _, name = entry.name.rpartition("/")
            if folder == store.TEXT_ENCODER:
                (Path(scratch) / name).write_bytes(store.read_file(url, entry))
        yield TextEncoder(scratch, weights=False)


@contextmanager
def _well_formed(url: str) -> Iterator[None]:
    """What a stranger's `state.json` may hold instead of what is read from it is a fault of the checkpoint."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{store.STATE} is not of the expected form: {type(error).__name__}: {error}",
            where=url,
            remedy="use a checkpoint that this version of ivr_dist wrote",
        ) from error


def batch_spec(state: dict[str, Any], text: TextEncoder | None = None, *, url: str = "") -> BatchSpec:
    """The layout and feature statistics a checkpoint was trained with.

    Args:
        state: Its `state.json`.
        text: Its text encoder, if batches are to be made.
        url: The checkpoint, for errors.

    Raises:
        CheckpointError: The state does not say.
    """
    with _well_formed(url):
        return BatchSpec(
            modalities={str(name): (str(kind), int(dim)) for name, (kind, dim) in state["features"].items()},
            tasks={name: TaskSpec(**task) for name, task in state["tasks"].items()},
            statistics={
                name: (np.array(mean, np.float32), np.array(std, np.float32))
                for name, (mean, std) in state["statistics"].items()
            },
            common_length=state["model"]["preset"] == "release",
            tokenizer=None if text is None else text.tokenizer(),
        )


def stored_config(state: dict[str, Any], url: str) -> Config:
    """The config that a checkpoint was trained with.

    Raises:
        CheckpointError: The state has none.
        ConfigError: It is not one of this version.
    """
    with _well_formed(url):
        return from_dict(state["config"], where=url)


def load_model(url: str, *, verified: bool = False, trust_code: bool = False) -> nn.Module:
    """Build a checkpoint's model on the host and put its weights in.

    Args:
        url: The checkpoint.
        verified: As for `read_weights`.
        trust_code: Whether a class outside the package that the checkpoint names as its model may be imported.

    Raises:
        CheckpointError: It is not complete, or damaged.
        UserError: It names a class, and that is not trusted or cannot be imported.
    """
    state = store.read_state(url) if verified else store.verify(url)
    config = stored_config(state, url)
    _import_model(config, state, url, trust_code)
    spec = batch_spec(state, url=url)
    with stored_text(url, state) as text:
        model = build_model(config.model, ModelSpec(spec.modalities, spec.tasks, text), config.loss)
    load_weights(model, url, verified=True)
    return model


def _import_model(config: Config, state: Mapping[str, Any], url: str, trust_code: bool) -> None:
    """Import the class that a checkpoint names as its model, if it names one and is trusted."""
    named = extensions.model(config)
    if named is not None:
        dotted_path.check_trusted(named, trust_code, url)
        with _well_formed(url):
            version = str(state.get(CLASSES, {}).get(named.key, {}).get("version", ""))
        dotted_path.import_recorded(named, url, version)


def check_same_model(state: dict[str, Any], here: dict[str, Any], url: str) -> None:
    """Refuse to resume from a checkpoint whose model, features or tasks differ from this run's.

    Args:
        state: The checkpoint's `state.json`.
        here: This run's values of the same keys: `model`, `features`, `tasks`.
        url: The checkpoint, for the error.
    """
    for key in ("model", "features", "tasks"):
        difference = _first_difference(state.get(key), here[key], key)
        if difference:
            raise CheckpointMismatchError(
                f"the checkpoint is of another model: {difference}",
                where=url,
                remedy="use its config again, or start over with run.resume=never or another run.dir",
            )


def _first_difference(there: Any, here: Any, path: str) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            difference = _first_difference(there.get(key), here.get(key), f"{path}.{key}")
            if difference:
                return difference
        return ""
    return "" if there == here else f"{path} is {there!r} there and {here!r} here"


def _shape(weights: dict[str, Tensor], name: str) -> str:
    return str(list(weights[name].shape)) if name in weights else "absent"
