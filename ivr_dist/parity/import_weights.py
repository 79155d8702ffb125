"""Import of the released code's weights (`.std`, a pickled state dict) as a checkpoint of preset `release`."""

from __future__ import annotations

import json
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.fragments import Fragment
from ivr_dist.checkpoint.part_manifest import WEIGHT
from ivr_dist.checkpoint.safetensors_file import buffers
from ivr_dist.checkpoint.tensors import describe_fragments, tensor_files
from ivr_dist.checkpoint.weights import initial_state
from ivr_dist.common.library_errors import describe
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config.loading import from_dict
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.errors import CheckpointMismatchError, StorageError, UserError
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.parity.parameter_names import SHARED_CODE, release_names, release_sizes
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import TaskSpec

TEXT_ENCODER = "text_encoder.safetensors"
"""File of the language model's weights, beside those of the model; parameter names are those of a plain RoBERTa."""
_WORDS = "embeddings.word_embeddings.weight"
_TEXT_PARTS = ("embeddings.", "encoder.", "pooler.")
_REMEDY = "give a state dict that the released code wrote"


@dataclass(frozen=True)
class Imported:
    """Result of an import."""

    checkpoint: str
    """Path or URL of the checkpoint."""
    sizes: dict[str, int]
    """Hidden width, outputs, and feature width by modality."""
    parameters: int
    """Number of parameters imported into the model."""
    text_encoder: int
    """Number of parameters of the language model."""
    dropped: dict[str, int]
    """Sizes by name of the tensors that affect neither prediction nor loss."""

    def rows(self) -> list[tuple[str, str]]:
        """Format the result as table rows."""
        names = ", ".join(self.dropped) or "none"
        return [
            ("checkpoint", storage.display(self.checkpoint)),
            *((name, f"{size:,}") for name, size in self.sizes.items()),
            ("parameters", f"{self.parameters:,}"),
            ("text encoder", f"{self.text_encoder:,} in {TEXT_ENCODER}" if self.text_encoder else "none in the file"),
            ("dropped, unused", f"{sum(self.dropped.values()):,} in {len(self.dropped)} tensors: {names}"),
        ]


def import_release(path: str, out: str, shards: str | None = None) -> Imported:
    """Write a checkpoint from a state dict of the released code.

    Args:
        path: The state dict; read without running code in it.
        out: Directory or URL of the checkpoint; must be empty or absent.
        shards: A packed split that the model is for: names its one task and must have its feature widths. None: the
            task is MOSI's sentiment for one output, UR-FUNNY's for more.

    Raises:
        UserError: The file is not such a state dict, or does not fit the shards.
        StorageError: The checkpoint cannot be written.
    """
    target = storage.absolute(out)
    if storage.holds_files(target):
        raise UserError("the folder is not empty", where=storage.display(target), remedy="choose another --out")
    tensors = _read(path)
    prefix = _prefix(tensors, path)
    own = {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
    try:
        hidden, outputs, features = release_sizes(own)
    except (KeyError, ValueError) as error:
        raise _not_release(
            path, f"it has no matrix {error.args[0]}" if isinstance(error, KeyError) else str(error)
        ) from error
    spec = _spec(features, outputs, storage.absolute(shards) if shards else None)
    config = from_dict({"model": {"preset": "release", "hidden": hidden}}, where=path)
    (task,) = spec.tasks
    model = build_model(config.model, ModelSpec(spec.modalities, spec.tasks), config.loss)
    names = release_names(dict(model.named_parameters()), task)
    weights = {}
    for name, parameter in model.named_parameters():
        theirs = own.get(names[name])
        if theirs is None or theirs.shape != parameter.shape:
            shape = "absent" if theirs is None else str(list(theirs.shape))
            raise _not_release(path, f"{names[name]} is {shape}, the release has {list(parameter.shape)}")
        weights[name] = theirs.detach().float().contiguous().clone()
    rest = {name: part for name, part in tensors.items() if name.removeprefix(prefix) not in names.values()}
    text = _text_encoder(rest)
    state = replace(initial_state(config, spec), shapes={name: list(part.shape) for name, part in weights.items()})
    fragments = [Fragment(name, 0, part.numel(), {WEIGHT: part.reshape(-1)}) for name, part in weights.items()]
    files = {**tensor_files(fragments, 0)}
    if text:
        files[TEXT_ENCODER] = buffers({short: rest[name].contiguous().clone() for short, name in text.items()})
    files[store.STATE] = [json.dumps(state.to_json(), indent=1).encode()]
    store.write_part(target, 0, 1, files, describe_fragments(fragments))
    return Imported(
        checkpoint=target,
        sizes={"hidden": hidden, "outputs": outputs, **features},
        parameters=sum(part.numel() for part in weights.values()),
        text_encoder=sum(rest[name].numel() for name in text.values()),
        dropped={name: part.numel() for name, part in rest.items() if name not in text.values()},
    )


def _read(path: str) -> dict[str, Tensor]:
    """Load the state dict on the host."""
    try:
        with tempfile.TemporaryDirectory(prefix="ivr-import-") as scratch:
            local = str(Path(scratch) / "release.std")
            storage.download(storage.absolute(path), local)
            with warnings.catch_warnings():
                # Warnings about pickle protocols: a file that cannot be read raises an error anyway.
                warnings.simplefilter("ignore")
                tensors = torch.load(local, map_location="cpu", weights_only=True)
    except StorageError as error:
        raise UserError(error.what, where=path, remedy="check the path") from error
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise _not_release(path, f"it cannot be read: {describe(error)}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise _not_release(path, f"it is damaged: {type(error).__name__}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(part, Tensor) for part in tensors.values()):
        raise _not_release(path, "it contains more than tensors by name")
    return {str(name): part for name, part in tensors.items()}


def _prefix(tensors: Mapping[str, Tensor], path: str) -> str:
    """Find the prefix of the released model's parameter names, such as a wrapper's `module.`."""
    prefixes = [name.removesuffix(SHARED_CODE) for name in tensors if name.endswith(SHARED_CODE)]
    if len(prefixes) != 1:
        raise _not_release(path, f"{SHARED_CODE} occurs {len(prefixes)} times")
    return prefixes[0]


def _text_encoder(rest: Mapping[str, Tensor]) -> dict[str, str]:
    """Map the language model's tensor names without prefix to their names in the file."""
    prefixes = {name.removesuffix(_WORDS) for name in rest if name.endswith(_WORDS)}
    return {
        name.removeprefix(prefix): name
        for prefix in sorted(prefixes)[:1]
        for name in rest
        if name.startswith(tuple(prefix + part for part in _TEXT_PARTS))
    }


def _spec(features: Mapping[str, int], outputs: int, shards: str | None) -> BatchSpec:
    if outputs > 1:
        tasks = {"funny": TaskSpec(type="classification", classes=outputs, scale="humor")}
    else:
        tasks = {"sentiment": TaskSpec(type="regression", low=-3.0, high=3.0, scale="mosi")}
    manifest = Manifest.load(shards) if shards else None
    if manifest is not None:
        tasks = dict(manifest.tasks)
        outputs_of_tasks = {task.classes or 1 for task in tasks.values()}
        if len(tasks) != 1 or outputs_of_tasks != {outputs}:
            raise CheckpointMismatchError(
                f"the weights have one task of {outputs} output(s), the split has {', '.join(tasks)}",
                where=storage.display(shards or ""),
                remedy="give --shards a split with one such task, or leave it out",
            )
    modalities = {name: ("features", features[name]) for name in MODALITIES}
    spec = BatchSpec(modalities=modalities, tasks=tasks, statistics={}, common_length=True)
    if manifest is not None:
        spec.check_split(manifest)
    return spec


def _not_release(path: str, why: str) -> UserError:
    return UserError(f"not a state dict of the released code: {why}", where=path, remedy=_REMEDY)
