"""Small batches and models for the tests of model and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config, LossConfig, ModelConfig
from ivr_dist.config.loading import from_dict
from ivr_dist.data.batches.batch import Batch, modality_batch
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.terms import LossTerms, loss_terms
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.shards.specs import TaskSpec

DIMS = {"text": 6, "audio": 5, "vision": 4}
TASKS = {
    "sentiment": TaskSpec(type="regression", low=-3.0, high=3.0),
    "type": TaskSpec(type="classification", classes=3),
}
WEIGHTS = {"task": 1.0, "consistency": 1.0, "adversary": 0.4, "reconstruction": 1.0, "svr": 1.0}


@dataclass(frozen=True)
class Sample:
    """One sample: features [T, D] of the modalities it has, labels of the tasks it has."""

    features: Mapping[str, Tensor]
    labels: Mapping[str, float]


def make_samples(
    lengths: Sequence[Mapping[str, int]], *, seed: int = 0, scale: float = 1.0, unlabeled: Sequence[int] = ()
) -> list[Sample]:
    """Random samples with the given steps by modality; 0 or no entry: the modality is missing."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for number, steps in enumerate(lengths):
        features = {m: scale * torch.randn(n, DIMS[m], generator=generator) for m, n in steps.items() if n}
        labels = {"sentiment": float(torch.randn((), generator=generator)), "type": float(number % 3)}
        samples.append(Sample(features, {} if number in unlabeled else labels))
    return samples


def mixed_samples(count: int, *, seed: int = 0) -> list[Sample]:
    """Samples of unequal lengths, of which some lack text, audio, vision or labels."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (count, 3), generator=generator)
    for row in range(count):
        if row % 3 == 2:
            lengths[row, (row // 3) % 3] = 0
    rows = [dict(zip(MODALITIES, row, strict=True)) for row in lengths.tolist()]
    return make_samples(rows, seed=seed, unlabeled=range(4, count, 5))


def batch_of(
    samples: Sequence[Sample],
    slots: Sequence[int] | None = None,
    *,
    modalities: Sequence[str] = MODALITIES,
    padding: int = 0,
    garbage: float = 0.0,
    common: int | None = None,
) -> Batch:
    """Pad samples to a batch, `padding` steps longer than needed, with `garbage` in the padding.

    With `common`, every modality has that many steps, and all of them count, padding included.
    """
    parts = {}
    for name in modalities:
        lengths = [len(sample.features.get(name, ())) for sample in samples]
        width = max(lengths, default=0) + padding if common is None else common
        features = torch.zeros(len(samples), width, DIMS[name])
        for row, sample in enumerate(samples):
            features[row, : lengths[row]] = sample.features.get(name, torch.zeros(0, DIMS[name]))
        mask = torch.arange(width) < torch.tensor(lengths, dtype=torch.long)[:, None]
        mask = mask if common is None else torch.ones_like(mask)
        part = modality_batch(features, mask)
        parts[name] = replace(part, features=torch.where(mask[..., None], part.features, garbage))
    labels: dict[str, Tensor] = {}
    for name, task in TASKS.items():
        values = torch.tensor([sample.labels.get(name, 0.0) for sample in samples])
        labels[name] = values if task.type == "regression" else values.long()
    return Batch(
        keys=tuple(f"sample-{row}" for row in range(len(samples))),
        slots=torch.tensor(range(len(samples)) if slots is None else slots, dtype=torch.long),
        modalities=parts,
        labels=labels,
        label_mask={name: torch.tensor([name in s.labels for s in samples], dtype=torch.bool) for name in TASKS},
    )


def model_config(**changes: Any) -> ModelConfig:
    """A narrow model without dropout."""
    return replace(ModelConfig(hidden=8, dropout=0.0), **changes)


def make_model(
    config: ModelConfig | None = None,
    modalities: Sequence[str] = MODALITIES,
    *,
    seed: int = 0,
    loss: LossConfig | None = None,
) -> nn.Module:
    """A model with fresh weights for the given modalities and all tasks."""
    torch.manual_seed(seed)
    spec = ModelSpec({name: ("features", DIMS[name]) for name in modalities}, TASKS)
    return build_model(config or model_config(), spec, loss)


def release_config(**model: Any) -> Config:
    """Preset release with a narrow model without dropout."""
    return from_dict({"model": {"preset": "release", "hidden": 8, "dropout": 0.0, **model}})


def no_reduce(tensor: Tensor) -> Tensor:
    """The sum over the ranks of one rank."""
    return tensor


def count(batches: Sequence[Batch], layout: StepLayout) -> StepCounts:
    """Global counts of a step that one process holds."""
    names = list(batches[0].modalities)
    return StepCounts.from_vector(local_counts(batches, layout, names, list(TASKS)), layout, names, list(TASKS))


def terms_of(
    output: IVROutput, batch: Batch, config: Config | None = None, layout: StepLayout | None = None
) -> LossTerms:
    """All terms of a step of one micro-batch in one process, by default with one group."""
    layout = layout or StepLayout(global_batch=len(batch) or 1, accumulation=1, group=len(batch) or 1)
    return loss_terms(
        output, batch, count([batch], layout), layout, config or Config(), micro=0, world=1, all_reduce=no_reduce
    )


def total_of(output: IVROutput, batch: Batch, config: Config | None = None) -> Tensor:
    """The weighted sum of all terms of a step of one micro-batch in one process."""
    return terms_of(output, batch, config).total(WEIGHTS, world=1, accumulation=1)


def gradients(
    model: nn.Module, batch: Batch, loss: Callable[[IVROutput, Batch], Tensor] = total_of
) -> dict[str, Tensor]:
    """Gradient of each parameter; fails if one has none."""
    model.zero_grad(set_to_none=True)
    loss(model(batch), batch).backward()
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        found[name] = parameter.grad.clone()
    return found


def norm_of_all(gradient: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all gradients together."""
    return float(torch.linalg.vector_norm(torch.stack([part.norm() for part in gradient.values()])))


def assert_close_gradients(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Each parameter's gradient differs by at most `tolerance` of its norm, or of 1e-3 of the norm of all gradients."""
    floor = 1e-3 * norm_of_all(expected)
    assert actual.keys() == expected.keys()
    for name, wanted in expected.items():
        error = float((actual[name].double() - wanted.double()).norm())
        assert error <= tolerance * max(float(wanted.norm()), floor), f"{name}: {error} of {float(wanted.norm())}"
