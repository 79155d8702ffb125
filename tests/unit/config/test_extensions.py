"""Config keys that name classes: forms, arguments, and errors found before any import."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivr_dist.config import Config, extensions
from ivr_dist.config.loading import from_dict, load_config, to_dict
from ivr_dist.config.yaml_writer import to_yaml
from ivr_dist.errors import ConfigError

BASE = ["data.train=x", "train.select=last"]

FILE = """
run:
  callbacks:
    - mine.parts:Alarm
    - {class: mine.parts:Alarm, after: 3}
model:
  class: mine.fusion:MyModel
loss:
  extra:
    contrast: {class: mine.parts:Contrast, weight: 0.1, temperature: 0.2, names: [a, yes, null]}
eval:
  metrics:
    rank: mine.parts:Rank
"""


def test_a_file_names_classes_with_arguments(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(FILE)
    config = load_config(str(tmp_path / "mine.yaml"), BASE)
    alarm, later = extensions.callbacks(config)
    assert (alarm.path, alarm.arguments, later.key, later.arguments) == (
        "mine.parts:Alarm", {}, "run.callbacks[1]", {"after": 3},
    )  # fmt: skip
    model = extensions.model(config)
    assert model is not None and (model.path, model.key) == ("mine.fusion:MyModel", "model.class")
    (term,) = extensions.extra_terms(config)
    assert (term.name, term.weight) == ("contrast", 0.1)
    assert term.class_ref.arguments == {"temperature": 0.2, "names": ["a", True, None]}
    assert extensions.metrics(config)["rank"].path == "mine.parts:Rank"
    assert len(extensions.all_of(config)) == 5
    assert from_dict(to_dict(config)) == config
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "again.yaml")) == config


def test_overrides_name_classes() -> None:
    config = load_config(
        None,
        [
            *BASE,
            "loss.extra.contrast={class: mine.parts:Contrast, weight: 0.1}",
            "loss.extra.other=mine.parts:Other",
            "run.callbacks=[mine.parts:Alarm]",
            "model.class=mine.fusion:MyModel",
        ],
    )
    assert [(term.name, term.weight) for term in extensions.extra_terms(config)] == [("contrast", 0.1), ("other", 1.0)]
    assert extensions.rows(config) == [
        ("extra loss", "contrast = mine.parts:Contrast, weight 0.1"),
        ("extra loss", "other = mine.parts:Other, weight 1"),
        ("callback", "mine.parts:Alarm"),
    ]


def test_arguments_and_weights_are_overridden_one_by_one() -> None:
    config = load_config(
        None,
        [
            *BASE,
            "model.class=mine.fusion:MyModel",
            "model.class.width=64",
            "model.class.layers.text=2",
            "loss.extra.contrast=mine.parts:Contrast",
            "loss.extra.contrast.weight=0.5",
            "loss.extra.contrast.temperature=2",
        ],
    )
    assert config.model.class_ == {"class": "mine.fusion:MyModel", "width": 64, "layers": {"text": 2}}
    (term,) = extensions.extra_terms(config)
    assert (term.class_ref.path, term.weight, term.class_ref.arguments) == (
        "mine.parts:Contrast",
        0.5,
        {"temperature": 2},
    )
    with pytest.raises(ConfigError, match=r"model\.class: a mapping without class"):
        load_config(None, [*BASE, "model.class.width=64"])


def test_keys_of_the_preset_are_not_read_by_a_class_of_ones_own() -> None:
    config = load_config(None, [*BASE, "model.class=a:B", "model.hidden=99", "model.fusion.heads=3"])
    assert extensions.rows(config) == [("not read by this model", "model.hidden, model.fusion.heads")]
    config = load_config(None, [*BASE, "model.class=a:B", "model.size=large"])
    assert extensions.unread_keys(config) == ["model.size"]
    assert extensions.unread_keys(load_config(None, [*BASE, "model.hidden=64"])) == []


def test_without_classes_there_is_nothing() -> None:
    assert extensions.all_of(Config()) == [] and extensions.rows(Config()) == []


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("model.class=mine.MyModel", "model.class: 'mine.MyModel' is not the path of a class"),
        ("loss.extra.svr=a.b:C", "loss.extra.svr has the name of a term of the package"),
        ("loss.extra.x={weight: 1}", "loss.extra.x: a mapping without class"),
        ("loss.extra.x={class: a:B, weight: -1}", "loss.extra.x.weight = -1 must be a number, at least 0 and finite"),
        ("loss.extra.x={class: a:B, weight: true}", "loss.extra.x.weight = True must be a number"),
        (
            "loss.extra.x={class: a:B, weight: .nan}",
            "loss.extra.x.weight = nan must be a number, at least 0 and",
        ),
        ("loss.extra.x={class: a:B, weight: '0.1'}", "loss.extra.x.weight = '0.1' must be a number"),
        ("loss.extra={a-b: a:B}", "loss.extra.a-b is not a name"),
        ("eval.metrics={a/b: a:B}", "eval.metrics.a/b is not a name"),
        ("run.callbacks=[3]", "run.callbacks[0]: 3 is not a string or a mapping"),
        ("run.callbacks=[{after: 3}]", "run.callbacks[0]: a mapping without class"),
    ],
)
def test_a_wrong_form_is_refused(override: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*BASE, override])
    assert str(caught.value).startswith(error)
    assert f"override {override!r}" in str(caught.value)


def test_two_ways_of_writing_a_class_are_the_same() -> None:
    assert extensions.normal_form("a:B") == extensions.normal_form({"class": "a:B", "weight": 1.0})
    assert extensions.normal_form("a:B") != extensions.normal_form({"class": "a:B", "weight": 0.5})
