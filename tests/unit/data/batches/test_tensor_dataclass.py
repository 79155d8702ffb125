"""Copying batches: every tensor is copied, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.tensor_dataclass import Tensors
from tests.batches import batch_of, mixed_samples


def tensors_of(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Tensors):
        for item in fields(value):  # type: ignore[arg-type]
            yield from tensors_of(getattr(value, item.name))
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_of(part)


def made() -> Batch:
    return batch_of(mixed_samples(5, seed=0))


def test_all_tensors_move() -> None:
    batch = made()
    there = list(tensors_of(batch))
    # Five and two of blocks for each of three modalities, two of the batch, two of each task.
    assert len(there) >= 3 * 7 + 2 + 2
    moved = batch.to(torch.device("meta"))
    assert type(moved) is Batch and moved.keys == batch.keys
    assert all(tensor.is_meta for tensor in tensors_of(moved))
    assert [tensor.shape for tensor in tensors_of(moved)] == [tensor.shape for tensor in there]
    assert not any(tensor.is_meta for tensor in there)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_pinned_batches_are_the_same() -> None:
    batch = made()
    pinned = batch.pinned()
    assert all(tensor.is_pinned() for tensor in tensors_of(pinned))
    assert all(torch.equal(one, other) for one, other in zip(tensors_of(pinned), tensors_of(batch), strict=True))
