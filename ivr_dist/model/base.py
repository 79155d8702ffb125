"""The model protocol: `FusionModel`, the base class of all models."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ivr_dist.data.batches.batch import Batch
from ivr_dist.model.spec import IVROutput


class FusionModel(nn.Module):
    """Base class of the presets and of `model.class`, which is built as `Class(spec: ModelSpec, **arguments)`.

    Initial weights are drawn from torch's global generator, equally on every rank. Every parameter belongs to a
    submodule that takes and returns tensors, not to the model itself, and takes part in every forward pass, also of an
    empty batch or of one without any step of a modality: ZeRO 3 gathers parameters by submodule, on all ranks.
    """

    provides: ClassVar[tuple[str, ...]] = ("predictions",)
    """Parts of `IVROutput` that it returns; losses that need another one are refused before anything starts."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modalities that it requires; a data set or config that lacks one is refused."""
    task_types: ClassVar[tuple[str, ...]] = ("regression", "classification")
    """Types of tasks that it supports."""

    def forward(self, batch: Batch) -> IVROutput:
        """Predict one micro-batch; it may be empty, and so may any modality."""
        raise NotImplementedError
