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

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.fragments import saved_buffers
from ivr_dist.checkpoint.tensors import open_tensors
from ivr_dist.config import Config
from ivr_dist.config_file import from_dict, to_dict
from ivr_dist.data.collate import WORDS, BatchSpec
from ivr_dist.data.manifest import TaskSpec
from ivr_dist.errors import CheckpointMismatchError
from ivr_dist.model import ModelSpec, build_model
from ivr_dist.pretrained import TextEncoder


def read_weights(url: str) -> dict[str, Tensor]:
    """The full float32 weights of a checkpoint, by the model's own names."""
    with open_tensors(url, store.read_state(url)) as tensors:
        return {name: tensors.weight(name) for name in tensors.shapes}


def load_weights(model: nn.Module, url: str) -> None:
    """Put a checkpoint's weights into a model.

    Raises:
        CheckpointMismatchError: Names or shapes differ; the text names the first difference.
    """
    weights = read_weights(url)
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
    return {
        "config": to_dict(config),
        "model": model,
        "features": {name: list(part) for name, part in spec.modalities.items()},
        "tasks": {name: asdict(task) for name, task in spec.tasks.items()},
        "statistics": {name: [part.tolist() for part in parts] for name, parts in spec.statistics.items()},
    }


def text_files(text: TextEncoder | None) -> Mapping[str, bytes]:
    """What a checkpoint must hold of a pretrained text encoder besides its weights, by name; nothing without one."""
    return {} if text is None else {f"{store.TEXT_ENCODER}/{name}": data for name, data in text.files().items()}


@contextmanager
def stored_text(url: str, state: dict[str, Any]) -> Iterator[TextEncoder | None]:
    """The text encoder of a checkpoint, from its own files: no hub and no folder is needed; None if it has none."""
    if state["features"].get("text", ("",))[0] != WORDS:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ivr-text-") as scratch:
        place = storage.join(url, store.TEXT_ENCODER)
        for name in storage.list_dir(place):
            storage.download(storage.join(place, name), str(Path(scratch) / name))
        yield TextEncoder(scratch, weights=False)


def batch_spec(state: dict[str, Any], text: TextEncoder | None = None) -> BatchSpec:
    """The layout and feature statistics a checkpoint was trained with.

    Args:
        state: Its `state.json`.
        text: Its text encoder, if batches are to be made.
    """
    return BatchSpec(
        modalities={name: (kind, dim) for name, (kind, dim) in state["features"].items()},
        tasks={name: TaskSpec(**task) for name, task in state["tasks"].items()},
        statistics={
            name: (np.array(mean, np.float32), np.array(std, np.float32))
            for name, (mean, std) in state["statistics"].items()
        },
        common_length=state["model"]["preset"] == "release",
        tokenizer=None if text is None else text.tokenizer(),
    )


def load_model(url: str) -> nn.Module:
    """Build a checkpoint's model on the host and put its weights in."""
    state = store.read_state(url)
    spec = batch_spec(state)
    config = from_dict(state["config"], where=url)
    with stored_text(url, state) as text:
        model = build_model(config.model, ModelSpec(spec.modalities, spec.tasks, text), config.loss)
    load_weights(model, url)
    return model


def check_same_model(state: dict[str, Any], here: dict[str, Any], url: str) -> None:
    """Refuse to resume from a checkpoint whose model, features or tasks differ from this run's.

    Args:
        state: The checkpoint's `state.json`.
        here: This run's values of the same keys: `model`, `features`, `tasks`.
        url: The checkpoint, for the error.
    """
    for key in ("model", "features", "tasks"):
        difference = _first_difference(state[key], here[key], key)
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
