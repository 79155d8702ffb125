"""The model protocol: `FusionModel`, the base class of all models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ivr_dist.common.dotted_path import DOCUMENTATION, ClassReference
from ivr_dist.common.library_errors import named as named_error
from ivr_dist.common.own_code import OWN_ERRORS, is_own_error
from ivr_dist.data.batches.batch import Batch
from ivr_dist.errors import IvrError
from ivr_dist.model.spec import IVROutput
from ivr_dist.shards.specs import TaskSpec


@dataclass(frozen=True)
class OutputGuard:
    """Runs the forward pass of a model from outside: errors name the model, and its output is compared with its tasks.

    A prediction [B, 1] against labels [B] would train on [B, B] errors without a word.
    """

    class_ref: ClassReference
    """The model's entry in the config."""
    tasks: Mapping[str, TaskSpec]
    """What it predicts, by name."""

    def run(self, forward: Callable[..., Any], *arguments: Any, **keywords: Any) -> IVROutput:
        """Run a forward pass and check its output.

        Raises:
            IvrError: The model failed, or returned something else than predictions of every task.
        """
        try:
            output = forward(*arguments, **keywords)
        except OWN_ERRORS as error:  # whatever the model raises is the user's own code
            if not is_own_error(error):
                raise
            raise self._error(f"failed in forward: {named_error(error)}") from error
        if not isinstance(output, IVROutput):
            raise self._error(f"returned {type(output).__name__}, not an IVROutput")
        batch = next(value for value in (*arguments, *keywords.values()) if isinstance(value, Batch))
        self._check(output, len(batch))
        return output

    def _check(self, output: IVROutput, samples: int) -> None:
        if not isinstance(output.predictions, Mapping) or set(output.predictions) != set(self.tasks):
            theirs = ", ".join(map(str, output.predictions)) or "nothing"
            raise self._error(f"predicts {theirs}, the tasks are {', '.join(self.tasks)}")
        for name, task in self.tasks.items():
            value = output.predictions[name]
            shape = (samples,) if task.type == "regression" else (samples, task.classes)
            if not isinstance(value, Tensor) or not value.is_floating_point() or tuple(value.shape) != shape:
                shown = f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
                raise self._error(f"predicts {name}, a {task.type}, as {shown}, not {list(shape)} of floats")

    def _error(self, what: str) -> IvrError:
        remedy = f"correct it, see {DOCUMENTATION}; the same command continues the run"
        return IvrError(f"model {self.class_ref.path} {what}", where=self.class_ref.key, remedy=remedy)


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

    guard: OutputGuard | None = None
    """Set where the model comes from outside."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Run the forward pass with its hooks."""
        if self.guard is None:
            return super().__call__(*arguments, **keywords)
        return self.guard.run(super().__call__, *arguments, **keywords)

    def forward(self, batch: Batch) -> IVROutput:
        """Predict one micro-batch; it may be empty, and so may any modality."""
        raise NotImplementedError
