"""Load a trained model from a run, a checkpoint or an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ivr_dist import storage
from ivr_dist.checkpoint import store, weights
from ivr_dist.checkpoint.part_manifest import part_name
from ivr_dist.common.library_errors import describe
from ivr_dist.config import Config
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.batches.pool_spec import PoolSpec
from ivr_dist.errors import UserError
from ivr_dist.evaluation.metric import Metric
from ivr_dist.evaluation.registry import configured_metrics
from ivr_dist.inspection.existing_run import read_result
from ivr_dist.inspection.status import no_run
from ivr_dist.model.spec import IVROutput
from ivr_dist.run.attempts import lineage, read_attempts
from ivr_dist.run.paths import SEED_RUN_NAME
from ivr_dist.runtime import device as device_module
from ivr_dist.shards.specs import TaskSpec

_EXPORT_FILES = ("model.safetensors", "model.safetensors.index.json", "model.onnx")


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model in evaluation mode, with the layout of its inputs; returned by `load`."""

    checkpoint: str
    """Absolute path or URL of the checkpoint."""
    config: Config
    """The config that it was trained with."""
    module: nn.Module
    """The PyTorch module."""
    spec: BatchSpec | PoolSpec
    """Contents of batches, and the statistics by which features are standardized."""
    device: torch.device
    """Where the module is."""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """By name: the metrics of `eval.metrics`, where its code is trusted."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the model reads."""
        return tuple(self.spec.modalities)

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """By task: what the model predicts; of several corpora, by head."""
        return self.spec.tasks

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora that it was trained on, of a model of several."""
        return tuple(corpus.name for corpus in self.spec.layout.corpora) if isinstance(self.spec, PoolSpec) else ()

    def __call__(self, batch: Batch) -> IVROutput:
        """Run the model on one batch, without gradients."""
        with torch.no_grad():
            output: IVROutput = self.module(batch.to(self.device))
        return output

    def __repr__(self) -> str:
        name = storage.display(self.checkpoint)
        return f"<model {name}: {', '.join(self.modalities)} -> {', '.join(self.tasks)}, on {self.device}>"


def load(path: str, *, device: str | torch.device | None = None, trust_code: bool = False) -> Model:
    """Load the model of a run or checkpoint; every byte is verified first.

    Args:
        path: Directory or URL of a checkpoint or a run; see `resolve_checkpoint`.
        device: Device of the model; None: the GPU if there is one.
        trust_code: Whether classes outside the package that the checkpoint names may be imported.

    Raises:
        UserError: There is no model at `path`, it is a class that is not trusted or cannot be imported, or there is no
            such device.
        CheckpointError: The checkpoint is not complete, or damaged.
    """
    target = _device(device)
    url = resolve_checkpoint(path)
    state = store.verify(url)
    with weights.stored_text(url, state) as text:
        spec = weights.batch_spec(state, text)
    module = weights.load_model(url, verified=True, trust_code=trust_code).to(target).eval()
    config = weights.stored_config(state, url)
    return Model(url, config, module, spec, target, configured_metrics(config) if trust_code else {})


def _device(device: str | torch.device | None) -> torch.device:
    """Return the device to use, after an allocation on it."""
    if device is None:
        device = "cuda" if device_module.available() else "cpu"
    try:
        target = torch.device(device)
        torch.empty(1, device=target)
    # Without CUDA, torch raises an AssertionError.
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise UserError(
            f"the device {device} cannot be used: {describe(error)}", remedy="give cpu, or a GPU such as cuda:0"
        ) from None
    return target


def resolve_checkpoint(path: str) -> str:
    """Resolve a path to a checkpoint.

    For a run this is the checkpoint named in its result, the best one by validation if there is validation; without a
    result, the newest complete one.

    Raises:
        UserError: It is neither a checkpoint nor a run, the run has no complete checkpoint, or it is an export, which
            this version cannot load.
    """
    url = storage.absolute(path)
    # A directory of this name is a checkpoint, also if it is incomplete.
    is_named = store.CheckpointName.parse(url.rstrip("/").rsplit("/", 1)[-1]) is not None
    if is_named or storage.exists(storage.join(url, part_name(0))):
        return url
    # Before the export's files: the folder of a checkpoint or run may contain anything.
    if result := read_result(url):
        return str(result["checkpoint"])
    attempts = read_attempts(url)
    for name in store.in_lineage(store.names(url), lineage(attempts)):
        if store.is_complete(name.url(url)):
            return name.url(url)
    where = storage.display(url)
    if attempts:
        raise UserError("the run has no complete checkpoint yet", where=where, remedy="wait for its first one")
    if any(storage.exists(storage.join(url, name)) for name in _EXPORT_FILES) or url.endswith(".onnx"):
        raise UserError(
            "exported models cannot be loaded yet", where=where, remedy="give the run or checkpoint that was exported"
        )
    if SEED_RUN_NAME.list_numbers(url):
        raise no_run(url)
    raise UserError(
        "no model here: neither a run nor a checkpoint",
        where=where,
        remedy="give a run.dir, or a directory such as RUN/checkpoints/step-00000176.a01",
    )


def choose_checkpoint(path: str) -> tuple[str, str]:
    """Resolve a path to a checkpoint, with a sentence that names it where the path is that of a run.

    Raises:
        UserError: As `resolve_checkpoint`.
    """
    url, chosen = storage.absolute(path), resolve_checkpoint(path)
    if chosen == url:
        return url, ""
    why = "which the run selected" if read_result(url) else "the newest one of a run without a result"
    return chosen, f"the checkpoint is {storage.short_display(chosen)}, {why}"
