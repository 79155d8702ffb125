"""Weights and models from checkpoints, without DeepSpeed: for evaluation, prediction and new runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.fragments import saved_buffers
from ivr_dist.checkpoint.pool_batches import pool_state, stored_pool_spec
from ivr_dist.checkpoint.pool_state import PoolState
from ivr_dist.checkpoint.state import CheckpointState
from ivr_dist.checkpoint.tensors import open_tensors
from ivr_dist.common import dotted_path
from ivr_dist.config import Config, extensions
from ivr_dist.config.loading import from_dict, to_dict
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.batches.pool_spec import PoolSpec
from ivr_dist.errors import CheckpointMismatchError
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.model.text.text_encoder import TextEncoder
from ivr_dist.planning.pool_layout import WORDS
from ivr_dist.sanitize import hide_secrets


def read_weights(url: str, *, verified: bool = False) -> dict[str, Tensor]:
    """Read the full float32 weights of a checkpoint, by the model's parameter names.

    Args:
        url: The checkpoint.
        verified: Whether `store.verify` has just succeeded; else all bytes are verified first.

    Raises:
        CheckpointError: It is not complete, or damaged.
    """
    state = store.read_state(url) if verified else store.verify(url)
    with open_tensors(url, state) as tensors:
        return {name: tensors.weight(name) for name in tensors.shapes}


def load_weights(model: nn.Module, url: str, *, verified: bool = False) -> None:
    """Load a checkpoint's weights into a model.

    Args:
        model: The unpartitioned model, changed in place.
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
    """Return the tensors of an unpartitioned model that checkpoints hold, by name; a tied parameter occurs once."""
    return {**dict(model.named_parameters()), **saved_buffers(model)}


def initial_state(
    config: Config,
    spec: BatchSpec | PoolSpec,
    *,
    sets: Mapping[str, str] | None = None,
    manifests: Mapping[str, str] | None = None,
    world: int = 1,
    stage: int = 0,
) -> CheckpointState:
    """Build the state common to all checkpoints of an attempt: config, model, features, tasks, statistics.

    Args:
        config: The run's config.
        spec: Contents of its batches.
        sets: By modality: the name of its feature set, where there is one corpus.
        manifests: Manifest ids by split.
        world: Workers.
        stage: ZeRO stage.
    """
    plain = to_dict(config)
    inputs = model_spec(spec)
    return CheckpointState(
        step=0,
        config=_without_secrets(plain),
        model=_described(plain["model"]),
        features={name: list(part) for name, part in inputs.features.items()},
        tasks=dict(spec.tasks),
        statistics={}
        if isinstance(spec, PoolSpec)
        else {name: [part.tolist() for part in parts] for name, parts in spec.statistics.items()},
        pool=pool_state(spec) if isinstance(spec, PoolSpec) else None,
        manifests=dict(manifests or {}),
        sets=dict(sets or {}),
        world=world,
        stage=stage,
        classes=recorded_classes(config),
    )


def _described(model: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of the section `model` what makes no other model."""
    # Not the size: it only sets other keys where they are unset, and two sizes can be the same model. Not an empty
    # class: checkpoints of older versions have no such key.
    described = {name: value for name, value in model.items() if name != "size" and (name != "class" or value)}
    # Only where states of texts come from.
    text = {name: value for name, value in model["text"].items() if name not in ("cache_states", "states_dir")}
    return {**described, "text": text}


def recorded_classes(config: Config) -> dict[str, dict[str, str]]:
    """Record the classes outside the package that a config names, with their versions.

    Raises:
        ConfigError: One cannot be imported.
    """
    class_refs = {reference.key: reference for reference in extensions.all_of(config)}
    return {key: dotted_path.recorded(entry, dotted_path.import_class(entry)) for key, entry in class_refs.items()}


def changed_classes(state: CheckpointState, here: CheckpointState) -> list[str]:
    """List the classes whose version differs from that of a checkpoint, a sentence each.

    Args:
        state: The checkpoint's state.
        here: This run's.
    """
    before = {key: (record.get(dotted_path.CLASS), record.get("version")) for key, record in state.classes.items()}
    return [
        f"{key}: {record[dotted_path.CLASS]} is {record['version']} here, the checkpoint was written with {version}"
        for key, record in here.classes.items()
        for name, version in [before.get(key, ("", ""))]
        if name == record[dotted_path.CLASS] and version != record["version"]
    ]


def _without_secrets(value: Any) -> Any:
    """Remove passwords and signatures from URLs of a config, since checkpoints are shared."""
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items()}
    return hide_secrets(value) if isinstance(value, str) else value


def text_files(text: TextEncoder | None) -> Mapping[str, bytes]:
    """Return the files of a pretrained text encoder that a checkpoint holds besides its weights (decision 016)."""
    return {} if text is None else {f"{store.TEXT_ENCODER}/{name}": data for name, data in text.files().items()}


@contextmanager
def stored_text(url: str, state: CheckpointState) -> Iterator[TextEncoder | None]:
    """Open the text encoder of a checkpoint from its own files, without a hub; None if it has none.

    Only files that the part manifests name are used: other files in the folder are untrusted.
    """
    own = {"": state.features.get("text", ("",))}
    sets = own if state.pool is None else state.pool.sets.get("text", {})
    if all(form[0] != WORDS for form in sets.values()):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ivr-text-") as scratch:
        for entry in (entry for part in store.parts(url) for entry in part.files):
            folder, _, name = entry.name.rpartition("/")
            if folder == store.TEXT_ENCODER:
                (Path(scratch) / name).write_bytes(store.read_file(url, entry))
        yield TextEncoder(scratch, weights=False, context=_context(state))


def _context(state: CheckpointState) -> int:
    """Utterances before a sample whose text was read with it; checkpoints of older versions do not say so."""
    data = state.config.get("data", {})
    context = data.get("context", 0) if isinstance(data, Mapping) else 0
    return context if isinstance(context, int) else 0


def model_spec(spec: BatchSpec | PoolSpec, text: TextEncoder | None = None) -> ModelSpec:
    """Return what a model reads and predicts, from the contents of its batches."""
    if isinstance(spec, PoolSpec):
        return ModelSpec.of(spec.layout, text)
    return ModelSpec(spec.modalities, spec.tasks, text)


def batch_spec(state: CheckpointState, text: TextEncoder | None = None) -> BatchSpec | PoolSpec:
    """Return the contents of the batches, with feature statistics, a checkpoint was trained with.

    Args:
        state: The checkpoint's state.
        text: Its text encoder, needed to collate batches of words.
    """
    if state.pool is not None:
        return stored_pool_spec(state.pool, state.tasks, None if text is None else text.tokenizer())
    return BatchSpec(
        modalities={name: (str(kind), int(width)) for name, (kind, width) in state.features.items()},
        tasks=state.tasks,
        statistics={
            name: (np.array(mean, np.float32), np.array(std, np.float32))
            for name, (mean, std) in state.statistics.items()
        },
        common_length=state.model["preset"] == "release",
        tokenizer=None if text is None else text.tokenizer(),
    )


def stored_config(state: CheckpointState, url: str) -> Config:
    """Decode the config that a checkpoint was trained with.

    Args:
        state: The checkpoint's state.
        url: The checkpoint, for errors.

    Raises:
        ConfigError: This version does not know a key of it, or a value is out of range.
    """
    return from_dict(dict(state.config), where=url)


def load_model(url: str, *, verified: bool = False, trust_code: bool = False) -> nn.Module:
    """Build a checkpoint's model on the host and load its weights.

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
    spec = batch_spec(state)
    with stored_text(url, state) as text:
        model = build_model(config.model, model_spec(spec, text), config.loss)
    load_weights(model, url, verified=True)
    return model


def _import_model(config: Config, state: CheckpointState, url: str, trust_code: bool) -> None:
    """Import the class that a checkpoint names as its model, if it names one and is trusted."""
    class_ref = extensions.model(config)
    if class_ref is not None:
        dotted_path.check_trusted(class_ref, trust_code, url)
        dotted_path.import_recorded(class_ref, url, state.classes.get(class_ref.key, {}).get("version", ""))


def check_same_model(state: CheckpointState, here: CheckpointState, url: str) -> None:
    """Refuse to resume from a checkpoint whose model, features or tasks differ from this run's.

    Args:
        state: The checkpoint's state.
        here: This run's.
        url: The checkpoint, for the error.

    Raises:
        CheckpointMismatchError: They differ; the text names the first difference, in a pool with its corpus.
    """
    _check_same_corpora(state.pool, here.pool, url)
    theirs, ours = _model_content(state), _model_content(here)
    for key in ("pool", "model", "features", "tasks"):
        difference = _first_difference(theirs.get(key), ours.get(key), key)
        if difference:
            raise CheckpointMismatchError(
                f"the checkpoint is of another model: {difference}",
                where=url,
                remedy="use its config again, or start over with run.resume=never or another run.dir",
            )


def _check_same_corpora(there: PoolState | None, here: PoolState | None, url: str) -> None:
    """Refuse a checkpoint of other corpora, or of the same in another order, by which batches number them."""
    if there is None or here is None:
        return
    theirs, ours = ([corpus.name for corpus in pool.corpora] for pool in (there, here))
    for name in ours:
        if name not in theirs:
            raise CheckpointMismatchError(
                f"the checkpoint knows no corpus {name}", where=url, remedy="start a new run with train.init_from"
            )
    for name in theirs:
        if name not in ours:
            raise CheckpointMismatchError(
                f"the checkpoint has corpus {name} too",
                where=url,
                remedy="add it to data.corpora, or start a new run with train.init_from",
            )
    if theirs != ours:
        raise CheckpointMismatchError(
            f"the checkpoint has the corpora in the order {', '.join(theirs)}",
            where=url,
            remedy="name them in this order in data.corpora",
        )


def _model_content(state: CheckpointState) -> dict[str, Any]:
    """What must be equal in two states of the same model; corpora by name.

    Statistics are left out: a run with `train.init_from` has those of its checkpoint; otherwise they follow from the
    data and from `data.mix.scale`, which are compared themselves.
    """
    content = state.to_json()
    if state.pool is not None:
        pool = {key: value for key, value in content["pool"].items() if not key.endswith("statistics")}
        content["pool"] = {**pool, "corpora": {corpus["name"]: corpus for corpus in pool["corpora"]}}
    return content


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
