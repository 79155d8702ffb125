"""`model.class`: a model from outside the package is built like a preset, and refused if it does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch import Tensor

from ivr_dist.common.dotted_path import ClassReference
from ivr_dist.config import ModelConfig
from ivr_dist.data.batches.batch import Batch
from ivr_dist.errors import ConfigError, IvrError
from ivr_dist.model.base import OutputGuard
from ivr_dist.model.build import build_model, import_model, unmet_needs
from ivr_dist.model.ivr import IVRModel
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.planning.model_inputs import ModelInputs
from ivr_dist.shards.specs import TaskSpec
from tests.batches import DIMS, TASKS, batch_of, mixed_samples
from tests.extension_parts import Averages, TextOnly

SPEC = ModelSpec({name: ("features", size) for name, size in DIMS.items()}, TASKS)


def test_a_class_takes_the_place_of_the_preset() -> None:
    model = build_model(ModelConfig(class_={"class": "tests.extension_parts:Averages", "width": 4}), SPEC)
    assert isinstance(model, Averages)
    output = model(batch_of(mixed_samples(5)))
    assert [part for part in IVROutput.parts() if output.has(part)] == ["predictions"]
    assert isinstance(build_model(ModelConfig(hidden=8), SPEC), IVRModel)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("NoModel", "tests.extension_parts:NoModel is not a model (model.class); derive it from ivr_dist.model.base"),
        ("Avrages", "tests.extension_parts has no Avrages (model.class); did you mean Averages?"),
        ({"widht": 4}, "tests.extension_parts:Averages takes no argument widht (model.class); did you mean width?"),
    ],
)
def test_invalid_model_classes_are_refused(path: object, error: str) -> None:
    named = {"class": "tests.extension_parts:Averages", **path} if isinstance(path, dict) else path
    value = f"tests.extension_parts:{named}" if isinstance(named, str) else named
    with pytest.raises(ConfigError) as caught:
        build_model(ModelConfig(class_=value), SPEC)
    assert str(caught.value).startswith(error)


class Returns(Averages):
    """Returns what a test wants."""

    output: object = None

    def forward(self, batch: Batch) -> IVROutput:
        if isinstance(self.output, Exception):
            raise self.output
        if callable(self.output):
            made: IVROutput = self.output(super().forward(batch).predictions)
            return made
        return self.output  # type: ignore[return-value]


def columns(predictions: Mapping[str, Tensor]) -> IVROutput:
    return IVROutput({name: value[..., None] for name, value in predictions.items()})


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (None, "returned NoneType, not an IVROutput"),
        (IVROutput({}), "predicts nothing, the tasks are sentiment, type"),
        (columns, "predicts sentiment, a regression, as [5, 1] torch.float32, not [5] of floats"),
        (
            lambda predictions: IVROutput({name: value.long() for name, value in predictions.items()}),
            "predicts sentiment, a regression, as [5] torch.int64, not [5] of floats",
        ),
        (
            lambda predictions: IVROutput(dict.fromkeys(predictions)),
            "predicts sentiment, a regression, as NoneType",
        ),
        (ValueError("no such luck"), "failed in forward: ValueError: no such luck"),
    ],
)
def test_an_output_that_does_not_fit_the_tasks_names_the_model(output: object, error: str) -> None:
    model = Returns(SPEC)
    named = ClassReference("mine.parts:Returns", "model.class")
    model.guard, model.output = OutputGuard(named, TASKS), output  # type: ignore[assignment]
    with pytest.raises(IvrError) as caught:
        model(batch_of(mixed_samples(5)))
    assert str(caught.value).startswith(f"model mine.parts:Returns {error}")
    assert str(caught.value).endswith("; correct it, see docs/extending.md; the same command continues the run")


def test_a_lost_worker_is_not_an_error_of_the_model() -> None:
    model = Returns(SPEC)
    model.guard = OutputGuard(ClassReference("mine.parts:Returns", "model.class"), TASKS)
    model.output = MemoryError()
    with pytest.raises(MemoryError):
        model(batch_of(mixed_samples(5)))


@pytest.mark.parametrize(
    ("member", "value", "error"),
    [
        ("provides", "predictions", "provides = 'predictions' is not a tuple of names (model.class); write it as prov"),
        ("needs", ("vision", "txt"), "needs names txt, which is not a modality (model.class); did you mean text?"),
        (
            "task_types",
            ("ranking",),
            "task_types names ranking, which is not a type of task (model.class); use",
        ),
        ("forward", lambda self: None, "forward cannot be called with 1 argument (model.class); see docs/extending.md"),
    ],
)
def test_a_wrong_declaration_is_refused(
    member: str, value: object, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Averages, member, value)
    with pytest.raises(ConfigError) as caught:
        import_model(ClassReference("tests.extension_parts:Averages", "model.class"))
    assert str(caught.value).startswith(f"tests.extension_parts:Averages: {error}")


def test_a_model_needs_modalities_and_types_of_tasks() -> None:
    named = ClassReference("tests.extension_parts:TextOnly", "model.class")
    assert import_model(named) is TextOnly
    reading = ModelInputs({"audio": "20"}, {"text": "40 transcripts are packed, but no text features"})
    tasks = {"mood": TaskSpec(type="classification", classes=3), "level": TaskSpec(type="regression", low=0, high=1)}
    found = [str(error) for error in unmet_needs(TextOnly, named, reading, tasks)]
    assert found == [
        "tests.extension_parts:TextOnly needs text, which is not read: 40 transcripts are packed, but no text features "
        "(model.class); use data that have it, or another model",
        "tests.extension_parts:TextOnly cannot predict task level, a regression (model.class); it predicts "
        "classification; use another model",
    ]
