"""Configs to dictionaries and YAML and back, the schema, and the configs that are shipped."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import config as config_module
from ivr_dist.config import Config, EncoderConfig
from ivr_dist.config.loading import from_dict, load_config, to_dict
from ivr_dist.config.reference import describe_keys
from ivr_dist.config.types import Key, Word, convert, keys, section_fields, section_paths
from ivr_dist.config.yaml_source import read_yaml
from ivr_dist.config.yaml_writer import to_yaml
from ivr_dist.errors import ConfigError
from tests.repository import ROOT

MINIMAL = ("data.train=data/train", "train.select=last")


def test_dictionaries_round_trip_through_json() -> None:
    config = load_config(None, [*MINIMAL, "loss.tasks.a=2", "deepspeed.x.y=[1, null, z]", "train.lr=1e-5"])
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"train": {"lrr": 1}}, "unknown key train.lrr"),
        ({"train": {"lr": "1e-4"}}, "train.lr: '1e-4' is not a number"),
        ({"train": {"max_steps": True}}, "true is not a whole number"),
        ({"zero": {"stage": True}}, "true is not one of"),
        ({"data": {"train": None}}, "null is not a string"),
        ({"train": 3}, "train is a section, not 3"),
    ],
)
def test_dictionaries_are_strict(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_dict(values, where="step-00000010/state.json")
    assert text in str(error.value)
    assert "step-00000010/state.json" in str(error.value)


@pytest.mark.parametrize(("text", "value"), [("4", 4), ("[2, 8]", [2, 8]), ("0", 0)])
def test_workers_are_a_number_or_a_range(text: str, value: int | list[int]) -> None:
    assert load_config(None, [*MINIMAL, f"run.num_workers={text}"]).run.num_workers == value


@pytest.mark.parametrize("text", ["two", "[4]", "[8, 2]", "[0, 2]", "-1", "1.5", "null"])
def test_other_workers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.num_workers"):
        load_config(None, [*MINIMAL, f"run.num_workers={text}"])


def test_missing_entries_take_their_defaults() -> None:
    assert from_dict({"train": {"epochs": 3}}).train.lr == Config().train.lr


TEXTS = st.one_of(
    st.text(st.sampled_from(" abzAE09.:#-+'\"{}[],&*!|>%@`\\~_/?=\t\n\x7f\u00e9\U0001f600"), max_size=12),
    st.sampled_from(
        ["on", "null", "1e-5", "010", "a: b", "a #b", "- x", "{}", "s3://a/b", "true", " ", ".inf", "~", "*a"]
    ),
)


@st.composite
def values_of(draw: st.DrawFn, annotation: Any) -> Any:
    """Values of a key's type."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return draw(st.sampled_from(args))
    if origin is list:
        return draw(st.lists(values_of(args[0]), max_size=3))
    if origin is dict:
        inner = (
            values_of(args[1]) if args[1] is not Any else st.none() | st.integers() | TEXTS | st.lists(st.floats(0, 1))
        )
        return draw(st.dictionaries(TEXTS, inner, max_size=3))
    if args:
        return draw(st.one_of([st.none() if arg is type(None) else values_of(arg) for arg in args]))
    if dataclasses.is_dataclass(annotation):
        entry = typing.cast(type, annotation)
        return {name: draw(values_of(hint)) for name, (hint, _) in section_fields(entry).items() if draw(st.booleans())}
    kinds = {
        str: TEXTS,
        bool: st.booleans(),
        int: st.integers(),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }
    return draw(kinds[annotation])


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Configs of the right types, whatever their sense."""
    chosen: dict[str, Any] = {}
    for key in draw(st.lists(st.sampled_from(list(keys().values())), unique_by=lambda key: key.path, max_size=8)):
        section = chosen
        *parents, leaf = key.path.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = draw(values_of(key.annotation))
    return from_dict(chosen)


@given(configs())
def test_yaml_reads_back_to_an_equal_config(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    text = to_yaml(config)
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(text, encoding="utf-8")
    assert from_dict(read_yaml(str(path))) == config
    # A YAML 1.1 reader sees the same values.
    assert from_dict(yaml.safe_load(text)) == config


def test_yaml_has_every_doc_line() -> None:
    lines = [line.strip() for line in to_yaml(Config()).splitlines()]
    for key in keys().values():
        assert f"# {key.doc}" in lines


def test_every_key_is_described() -> None:
    rows = {path: (kind, default, doc) for path, kind, default, doc in describe_keys()}
    assert rows["train.lr"] == ("a number, above 0", "0.001", "Peak learning rate of AdamW.")
    assert rows["train.dtype"][0] == "one of float32, bfloat16"
    assert rows["data.modalities"][:2] == ("a list of any of text, audio, vision", "[text, audio, vision]")
    assert rows["model.dropout"][:2] == ("a number, at least 0 and below 1, or null", "null")
    assert rows["deepspeed"][0] == "a mapping"
    assert all(doc.endswith(".") for _, _, doc in rows.values())


def test_schema_covers_all_keys() -> None:
    sections = {kind for kind in vars(config_module).values() if dataclasses.is_dataclass(kind)}

    def count(kind: type) -> int:
        nested = [annotation for annotation, _ in section_fields(kind).values()]
        return sum(count(inner) if inner in sections else 1 for inner in nested)

    assert len(keys()) == count(Config)
    assert {"train", "loss.svr", "model.text"} <= section_paths()
    assert set(section_fields(EncoderConfig)) == {"kind", "layers", "heads", "feedforward"}
    assert isinstance(keys()["train.lr"], Key)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_printed_float_is_read_as_itself(value: float) -> None:
    assert convert(Word(repr(value)), float) == value


# The configs that are shipped.


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_load(path: Path) -> None:
    load_config(str(path))
