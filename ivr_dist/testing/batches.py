"""Small batches and specs of synthetic data, for the contract suites."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.data.batches.batch import Batch, modality_batch
from ivr_dist.model.spec import ModelSpec
from ivr_dist.shards.specs import TaskSpec

WIDTHS = {"text": 6, "audio": 5, "vision": 4}
"""Features of a step, by modality."""
TASKS = {
    "sentiment": TaskSpec(type="regression", low=-3.0, high=3.0),
    "mood": TaskSpec(type="classification", classes=3),
}
"""A task of each type, by name."""
_MISSING_EVERY = 4
"""One sample in so many lacks a modality."""


def example_spec() -> ModelSpec:
    """Three modalities of feature vectors and two tasks."""
    return ModelSpec({name: ("features", WIDTHS[name]) for name in MODALITIES}, TASKS)


def example_batch(
    samples: Sequence[int] = range(8), *, padding: int = 0, missing: bool = True, equal_lengths: bool = False
) -> Batch:
    """A batch of synthetic samples.

    Args:
        samples: Their numbers, each of which has always the same values, slot and lengths; none is allowed.
        padding: Steps of padding behind the longest sample.
        missing: Whether some samples lack a modality or a label.
        equal_lengths: Whether every sample has as many steps in every modality.
    """
    return Batch(
        keys=tuple(f"sample-{number}" for number in samples),
        slots=torch.tensor(list(samples), dtype=torch.long),
        modalities={
            name: modality_batch(*_padded(samples, name, padding, missing, equal_lengths)) for name in MODALITIES
        },
        labels={
            "sentiment": torch.tensor([number % 7 - 3 for number in samples], dtype=torch.float32),
            "mood": torch.tensor([number % 3 for number in samples], dtype=torch.long),
        },
        label_mask={
            name: torch.tensor([not missing or number % 5 != 3 for number in samples], dtype=torch.bool)
            for name in TASKS
        },
        positions=torch.tensor(list(samples), dtype=torch.long),
    )


def _padded(
    samples: Sequence[int], modality: str, padding: int, missing: bool, equal_lengths: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [B, T, D] and mask [B, T] of one modality."""
    column = MODALITIES.index(modality)
    lengths = [
        0 if missing and number % _MISSING_EVERY == column else 4 if equal_lengths else 2 + (number + column) % 3
        for number in samples
    ]
    width = max(lengths, default=0) + padding
    features = torch.zeros(len(lengths), width, WIDTHS[modality])
    mask = torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, (number, length) in enumerate(zip(samples, lengths, strict=True)):
        generator = torch.Generator().manual_seed(100 * number + column)
        features[row, :length] = torch.randn(length, WIDTHS[modality], generator=generator)
        mask[row, :length] = True
    return features, mask
