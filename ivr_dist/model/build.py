"""Registry of models: builds a preset, or the class of `model.class`, with fresh weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from ivr_dist.common import dotted_path
from ivr_dist.common.dotted_path import ClassReference
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import LossConfig, ModelConfig
from ivr_dist.config.extensions import MODEL
from ivr_dist.errors import ConfigError
from ivr_dist.model.adapters import AdaptedModel
from ivr_dist.model.base import FusionModel, OutputGuard
from ivr_dist.model.ivr import IVRModel
from ivr_dist.model.release import ReleaseModel
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.model.text.word_encoder import WordEncoder, word_encoder
from ivr_dist.model.transformer import TransformerLayer
from ivr_dist.planning.model_inputs import ModelInputs
from ivr_dist.shards.specs import TaskSpec

PRESETS: Mapping[str, type[IVRModel] | type[ReleaseModel]] = {"ivr": IVRModel, "release": ReleaseModel}
"""Built-in models, by `model.preset`."""


def build_model(config: ModelConfig, spec: ModelSpec, loss: LossConfig | None = None) -> FusionModel:
    """Build a model with fresh weights from torch's global generator, except those of a pretrained text encoder.

    Args:
        config: The preset and its sizes, or the user's class.
        spec: The data it is built for.
        loss: Settings of the losses that change a preset: `adversary.reverse` and `reconstruction.per`.

    Raises:
        ConfigError: The pretrained text encoder or the user's class cannot be used.
    """
    if not config.class_:
        return PRESETS[config.preset](config, spec, loss or LossConfig())
    class_ref = dotted_path.reference(config.class_, MODEL)
    # Where corpora have several feature sets, the system projects them, and the class reads one width.
    inner = ModelSpec(dict.fromkeys(spec.features, ("features", config.hidden)), spec.tasks) if spec.sets else spec
    model: FusionModel = dotted_path.make(import_model(class_ref), class_ref, inner)
    model.guard = OutputGuard(class_ref, spec.tasks)
    if not spec.sets:
        return model
    words = None
    if spec.text is not None:
        words = word_encoder(spec.text, config.text)
    return AdaptedModel(model, spec, config.hidden, words)


def recompute_layers(model: nn.Module) -> None:
    """Enable activation checkpointing in all encoder layers, including a pretrained encoder's."""
    for part in model.modules():
        if isinstance(part, TransformerLayer):
            part.recompute = True
        if isinstance(part, WordEncoder):
            part.recompute()


def import_model(class_ref: ClassReference) -> type[FusionModel]:
    """Import the class of a model and check it.

    Raises:
        ConfigError: It cannot be imported, is not derived from `FusionModel`, provides a part that no output has, or
            takes other arguments.
    """
    kind: type[FusionModel] = dotted_path.import_class(class_ref)
    dotted_path.check_derived(kind, class_ref, "a model", FusionModel)
    if kind.forward is FusionModel.forward:
        raise dotted_path.lacks(class_ref, "a model", "forward")
    dotted_path.check_methods(kind, class_ref, "a model", {"forward": 1})
    dotted_path.check_names(kind, class_ref, "provides", IVROutput.parts(), "a part of a model's output")
    dotted_path.check_names(kind, class_ref, "needs", MODALITIES, "a modality")
    dotted_path.check_names(kind, class_ref, "task_types", FusionModel.task_types, "a type of task")
    dotted_path.check_arguments(kind, class_ref, positional=1)
    return kind


def unmet_needs(
    kind: type[FusionModel], class_ref: ClassReference, inputs: ModelInputs, tasks: Mapping[str, TaskSpec]
) -> Iterator[ConfigError]:
    """Yield an error for each need of a model that the data do not meet.

    Args:
        kind: The model's class.
        class_ref: Its entry in the config.
        inputs: The modalities that are read, and why others are not.
        tasks: Tasks to predict, by name.
    """
    for name in kind.needs:
        if name not in inputs.used:
            yield ConfigError(
                f"{class_ref.path} needs {name}, which is not read: {inputs.unused.get(name, 'the data set has none')}",
                where=class_ref.key,
                remedy="use data that have it, or another model",
            )
    for name, task in tasks.items():
        if task.type not in kind.task_types:
            yield ConfigError(
                f"{class_ref.path} cannot predict task {name}, a {task.type}",
                where=class_ref.key,
                remedy=f"it predicts {', '.join(kind.task_types)}; use another model",
            )
