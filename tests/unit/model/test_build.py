"""`model.class`: a model from outside the package is built like a preset, and refused if it does not fit."""

from __future__ import annotations

import pytest

from ivr_dist.common.dotted_path import ClassReference
from ivr_dist.config import ModelConfig
from ivr_dist.errors import ConfigError
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
