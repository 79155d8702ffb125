"""Parity with the released code: compares outputs, losses and gradients of preset `release` with a golden file.

A golden file is a `.npz` of float32 arrays made by running the released code in evaluation mode:

    in.text [B, T, D_t], in.audio [T, B, D_a], in.vision [T, B, D_v], in.label [B] or [B, 1]
    param.NAME, grad.NAME             the released code's parameters and their gradients of loss.total
    code.shared.MODALITY, code.private.MODALITY   [T, B, h]
    out.prediction [B, outputs]       one output for a regression, several for a classification
    loss.{task, domain, cmd, recon, jsd, total}

Every size is read from the arrays.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ivr_dist import storage
from ivr_dist.common.library_errors import describe
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config
from ivr_dist.config.loading import from_dict
from ivr_dist.data.batches.batch import Batch, modality_batch
from ivr_dist.errors import StorageError, UserError
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.terms import loss_terms
from ivr_dist.model.build import build_model
from ivr_dist.model.release import ReleaseModel
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.parity.parameter_names import release_names, release_sizes
from ivr_dist.shards.specs import TaskSpec

TOLERANCE = 1e-5
"""Largest relative error of any quantity: norm of the difference over norm of the reference."""
DEAD = 1e-6
"""Share of the norm of all gradients below which a gradient of the reference is rounding residue."""

_TASK = "task"
_LOSSES = {
    "task": f"task/{_TASK}",
    "domain": "adversary",
    "cmd": "consistency",
    "recon": "reconstruction",
    "jsd": "svr/vision",
}
_REMEDY = "give a golden file of the released code"


@dataclass(frozen=True)
class Comparison:
    """Comparison of one quantity with the reference."""

    name: str
    error: float
    """Relative error; of a dead gradient, this model's gradient norm over that of all gradients of the reference."""
    dead: bool
    ok: bool


@dataclass(frozen=True)
class ParityReport:
    """Comparisons of all quantities of one golden file."""

    file: str
    sizes: dict[str, int]
    comparisons: list[Comparison]

    @property
    def ok(self) -> bool:
        """Whether every quantity is within its bound."""
        return all(comparison.ok for comparison in self.comparisons)

    def worst(self) -> Comparison:
        """Return the comparison with the largest relative error."""
        return max((comparison for comparison in self.comparisons if not comparison.dead), key=_badness)

    def rows(self) -> list[tuple[str, str, str]]:
        """Format quantity, error and verdict as table rows."""
        return [
            (
                comparison.name,
                "dead" if comparison.dead else f"{comparison.error:.2e}",
                "ok" if comparison.ok else "DIFFERS",
            )
            for comparison in self.comparisons
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; an error that is not finite is null."""
        comparisons = [{**asdict(c), "error": c.error if math.isfinite(c.error) else None} for c in self.comparisons]
        return {
            "file": self.file,
            "ok": self.ok,
            "tolerance": TOLERANCE,
            "sizes": self.sizes,
            "comparisons": comparisons,
        }


def parity(path: str, dtype: torch.dtype = torch.float32) -> ParityReport:
    """Run preset `release` on a golden file, forward and backward, and compare.

    Args:
        path: The file's path or URL.
        dtype: Precision of the computation. In float32, which the released code uses, a ReLU or a gate within
            rounding of its threshold may switch; float64 distinguishes this from a true difference.

    Raises:
        UserError: It is not a golden file.
    """
    golden = {name: array.to(dtype) for name, array in _read(path).items()}
    try:
        return _compare(golden, path)
    except KeyError as error:
        raise UserError(f"the file lacks {error.args[0]}", where=path, remedy=_REMEDY) from error


def _read(path: str) -> dict[str, Tensor]:
    """Read all arrays of the file, as float32."""
    try:
        data = storage.read_bytes(storage.absolute(path))
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except StorageError as error:
        raise UserError(error.what, where=path, remedy="check the path") from error
    except (ValueError, AttributeError, TypeError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise _not_golden(path, f"it cannot be read: {describe(error)}") from error
    except (zlib.error, RuntimeError, KeyError, SyntaxError) as error:
        raise _not_golden(path, f"it is damaged: {describe(error)}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all() or array.size == 0:
            raise _not_golden(path, f"{name} is {array.dtype} {list(array.shape)}, not finite numbers")
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}


def _not_golden(path: str, why: str) -> UserError:
    return UserError(f"not a golden file: {why}", where=path, remedy=_REMEDY)


def _compare(golden: Mapping[str, Tensor], path: str) -> ParityReport:
    weights = {name.removeprefix("param."): part for name, part in golden.items() if name.startswith("param.")}
    try:
        hidden, outputs, features = release_sizes(weights)
        if golden["out.prediction"].dim() == 0:
            raise ValueError("out.prediction is a single number, not [B, outputs]")
        config = _config(hidden, golden["out.prediction"].shape[0])
        model = _model(config, features, outputs).to(golden["out.prediction"].dtype)
        names = release_names(dict(model.named_parameters()), _TASK)
        batch = _batch(golden, features, outputs)
        _load(model, names, weights, golden)
    except ValueError as error:
        raise _not_golden(path, str(error)) from error
    except KeyError as error:
        name = str(error.args[0])
        raise KeyError(name if name in ("out.prediction",) or name.startswith("in.") else f"param.{name}") from None
    output: IVROutput = model(batch)
    losses = _losses(output, batch, config)
    losses["total"].backward()  # type: ignore[no-untyped-call]
    steps = golden["in.text"].shape[1]
    comparisons = [
        *_forward_comparisons(output, golden, len(batch), steps),
        *(_compared(f"loss.{name}", value.detach(), golden) for name, value in losses.items()),
        *_gradient_comparisons(model, names, golden),
    ]
    sizes = {"samples": len(batch), "steps": steps, **features, "hidden": hidden, "outputs": outputs}
    return ParityReport(path, sizes, comparisons)


def _config(hidden: int, samples: int) -> Config:
    if hidden % 4:
        raise ValueError(f"its hidden width {hidden} is not a multiple of the release's 4 heads")
    values = {"model": {"preset": "release", "hidden": hidden}, "train": {"global_batch": samples}}
    return from_dict(values, where="preset release")


def _model(config: Config, features: Mapping[str, int], outputs: int) -> ReleaseModel:
    task = TaskSpec(type="classification", classes=outputs) if outputs > 1 else TaskSpec(type="regression")
    spec = ModelSpec({name: ("features", features[name]) for name in MODALITIES}, {_TASK: task})
    model = build_model(config.model, spec, config.loss)
    assert isinstance(model, ReleaseModel)
    return model.eval()


def _batch(golden: Mapping[str, Tensor], features: Mapping[str, int], outputs: int) -> Batch:
    """Build the batch of the inputs, [B, T, D] each, with every step valid."""
    parts = {name: golden[f"in.{name}"] for name in MODALITIES}
    flat = [name for name, part in parts.items() if part.dim() != 3]
    if flat:
        raise ValueError(f"in.{flat[0]} is {list(parts[flat[0]].shape)}, without samples, steps and features")
    parts |= {name: parts[name].transpose(0, 1).contiguous() for name in ("audio", "vision")}
    samples, steps = golden["out.prediction"].shape[0], parts["text"].shape[1]
    for name, part in parts.items():
        if part.shape != (samples, steps, features[name]):
            raise ValueError(f"in.{name} is {list(golden[f'in.{name}'].shape)}, which does not fit the others")
    label = golden["in.label"].flatten()
    if label.shape != (samples,):
        raise ValueError(f"in.label has {len(label)} values for {samples} samples")
    if outputs > 1:
        if not ((label == label.round()) & (label >= 0) & (label < outputs)).all():
            raise ValueError(f"in.label holds other values than the classes 0..{outputs - 1}")
        label = label.long()
    everywhere = torch.ones(samples, steps, dtype=torch.bool)
    return Batch(
        keys=tuple(str(row) for row in range(samples)),
        slots=torch.arange(samples),
        modalities={name: modality_batch(parts[name], everywhere) for name in MODALITIES},
        labels={_TASK: label},
        label_mask={_TASK: torch.ones(samples, dtype=torch.bool)},
    )


def _load(
    model: ReleaseModel, names: Mapping[str, str], weights: Mapping[str, Tensor], golden: Mapping[str, Tensor]
) -> None:
    """Load the file's weights into the model; weights that the model lacks must be dead, without a gradient."""
    unknown = [name for name in weights if name not in names.values() and f"grad.{name}" in golden]
    if unknown:
        raise ValueError(f"its parameter {unknown[0]} has a gradient, and the release has no such parameter")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            theirs = weights[names[name]]
            if theirs.shape != parameter.shape:
                what = f"param.{names[name]} is {list(theirs.shape)}, the release has {list(parameter.shape)}"
                raise ValueError(what)
            parameter.copy_(theirs)


def _losses(output: IVROutput, batch: Batch, config: Config) -> dict[str, Tensor]:
    """Compute the loss terms by the release's names, and their weighted sum."""
    layout = StepLayout(len(batch), 1, len(batch))
    names = (MODALITIES, [_TASK])
    counts = StepCounts.from_vector(local_counts([batch], layout, *names), layout, *names)
    terms = loss_terms(output, batch, counts, layout, config, micro=0, world=1, all_reduce=_single_rank)
    loss = config.loss
    weights = {
        "task": 1.0,
        "consistency": loss.consistency.weight,
        "adversary": loss.adversary.weight,
        "reconstruction": loss.reconstruction.weight,
        "svr": loss.svr.weight,
    }
    losses = {theirs: terms.values[own] for theirs, own in _LOSSES.items()}
    return {**losses, "total": terms.total(weights, world=1, accumulation=1)}


def _single_rank(tensor: Tensor) -> Tensor:
    return tensor


def _forward_comparisons(
    output: IVROutput, golden: Mapping[str, Tensor], samples: int, steps: int
) -> Iterator[Comparison]:
    predicted = output.predictions[_TASK].detach()
    yield _compared("out.prediction", predicted, golden)
    for kind, codes in (("shared", output.shared), ("private", output.private)):
        for name, code in codes.items():
            ours = code.detach().view(samples, steps, code.shape[-1]).transpose(0, 1)
            yield _compared(f"code.{kind}.{name}", ours, golden)


def _gradient_comparisons(
    model: ReleaseModel, names: Mapping[str, str], golden: Mapping[str, Tensor]
) -> Iterator[Comparison]:
    """Compare gradients; one that is dead in the reference must be dead here, since its relative error is noise."""
    norm: Callable[[Tensor], float] = lambda part: float(torch.linalg.vector_norm(part.double()))  # noqa: E731
    every = math.sqrt(sum(norm(golden[f"grad.{name}"]) ** 2 for name in names.values()))
    for name, parameter in model.named_parameters():
        key = f"grad.{names[name]}"
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if norm(golden[key]) < DEAD * every:
            share = norm(ours) / every
            yield Comparison(key, share, dead=True, ok=share < DEAD)
        else:
            yield _compared(key, ours, golden)


def _compared(name: str, ours: Tensor, golden: Mapping[str, Tensor]) -> Comparison:
    theirs = golden[name].double()
    if ours.numel() != theirs.numel():
        return Comparison(name, math.inf, dead=False, ok=False)
    reference = float(torch.linalg.vector_norm(theirs))
    difference = float(torch.linalg.vector_norm(ours.double().reshape(theirs.shape) - theirs))
    error = difference / reference if reference > 0 else (0.0 if difference == 0 else math.inf)
    return Comparison(name, error, dead=False, ok=error <= TOLERANCE)


def _badness(comparison: Comparison) -> float:
    return math.inf if math.isnan(comparison.error) else comparison.error
