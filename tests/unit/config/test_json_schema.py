"""The JSON schema: valid, satisfied by the shipped configs, and as strict as the program on single keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from ivr_dist.config import Config
from ivr_dist.config.json_schema import json_schema
from ivr_dist.config.loading import load_config, to_dict
from ivr_dist.config.types import Word, keys
from ivr_dist.config.yaml_source import read_yaml
from ivr_dist.errors import ConfigError
from tests.configs import MINIMAL
from tests.repository import ROOT

VALIDATOR = Draft202012Validator(json_schema())


def plain(value: Any) -> Any:
    """What a YAML 1.2 reader makes of a file."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.resolve() if isinstance(value, Word) else value


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def described(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, item in schema.get("properties", {}).items():
        yield f"{prefix}{name}", item
        yield from described(item, f"{prefix}{name}.")


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_key_is_described_with_its_default() -> None:
    found = dict(described(json_schema()))
    for path, key in keys().items():
        assert found[path]["description"] == key.doc
        assert found[path]["default"] == key.default
    assert all(item["description"] for item in found.values())


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_meet_it(path: Path) -> None:
    assert list(VALIDATOR.iter_errors(plain(read_yaml(str(path))))) == []
    # Readers of YAML 1.1 take 1e-3 for text.
    assert list(VALIDATOR.iter_errors(yaml.safe_load(path.read_text()))) == []


def test_defaults_meet_it() -> None:
    assert list(VALIDATOR.iter_errors(to_dict(Config()))) == []
    assert VALIDATOR.is_valid({"train": None}), "a section without keys"


@pytest.mark.parametrize(
    "value",
    [
        {"trian": {}},
        {"train": {"lrr": 1}},
        {"train": {"lr": "fast"}},
        {"train": {"max_steps": 1.5}},
        {"train": {"schedule": "cosin"}},
        {"train": {"betas": [0.9, 1.0]}},
        {"zero": {"stage": 4}},
        {"data": {"modalities": ["txt"]}},
        {"loss": {"tasks": {"a": -1}}},
        {"run": {"audit": 1}},
    ],
)
def test_invalid_configs_are_refused(value: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(value)


@pytest.mark.parametrize("path", [path for path, key in keys().items() if key.range is not None])
def test_ranges_are_those_of_the_program(path: str) -> None:
    allowed = keys()[path].range
    assert allowed is not None
    for bound in {allowed.low, allowed.high} - {float("inf")}:
        for number in (bound - 1, bound, bound + 1):
            value = {"a": number} if path == "loss.tasks" else [0.5, number] if path == "train.betas" else number
            written = f"{{a: {number}}}" if path == "loss.tasks" else str(value)
            try:
                load_config(None, [*MINIMAL, f"{path}={written}"])
                refused = False
            except ConfigError as error:
                # Errors about several keys are not the schema's.
                refused = (f"{path} = " in str(error) and " must be " in str(error)) or f"{path}.a" in str(error)
            assert VALIDATOR.is_valid(nested(path, value)) != refused, number
