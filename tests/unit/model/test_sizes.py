"""Model sizes: the keys they set, precedence, and gradients in all parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.checkpoint.weights import check_same_model, initial_state
from ivr_dist.config import Config
from ivr_dist.config.loading import from_dict, load_config, to_dict
from ivr_dist.config.yaml_writer import to_yaml
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.errors import CheckpointMismatchError, ConfigError
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.orchestration.preflight import count_parameters
from ivr_dist.packing.pack import pack
from ivr_dist.shards.manifest import Manifest
from tests.batches import batch_of, gradients, make_model, make_samples, norm_of_all
from tests.encoders import tiny_bert

MINIMAL = ("data.train=data/train", "train.select=last")
SIZES = {"base": (128, 1, 4), "large": (512, 2, 8), "xl": (1024, 4, 16)}
FULL = {"text": 3, "audio": 2, "vision": 4}
PARTS = ("text", "audio", "vision", "fusion")


def sized(size: str, *overrides: str) -> Config:
    return load_config(None, [*MINIMAL, f"model.size={size}", *overrides])


@pytest.mark.parametrize("size", SIZES)
def test_a_size_sets_width_layers_and_heads_and_nothing_else(size: str) -> None:
    hidden, layers, heads = SIZES[size]
    expected = to_dict(load_config(None, MINIMAL))
    expected["model"] |= {"size": size, "hidden": hidden}
    for part in PARTS:
        expected["model"][part] |= {"layers": layers, "heads": heads}
    assert to_dict(sized(size)) == expected


def test_base_is_the_default() -> None:
    assert sized("base") == load_config(None, MINIMAL)


OWN = {
    "model.hidden": st.sampled_from([16, 48, 64]),
    "model.text.layers": st.integers(1, 9),
    "model.vision.heads": st.sampled_from([1, 2, 8]),
    "model.audio.kind": st.sampled_from(["gru", "none"]),
    "model.fusion.layers": st.integers(0, 9),
    "model.fusion.heads": st.sampled_from([1, 2, 4]),
}


@given(size=st.sampled_from(list(SIZES)), own=st.fixed_dictionaries({}, optional=OWN))
def test_the_users_keys_go_before_the_sizes(size: str, own: dict[str, Any]) -> None:
    """Whatever they set, the others are the size's; and all of it reads back from a dictionary."""
    nested: dict[str, Any] = {"size": size}
    for path, value in own.items():
        *section, leaf = path.split(".")[1:]
        (nested.setdefault(section[0], {}) if section else nested)[leaf] = value
    config = from_dict({"model": nested})
    plain = sized(size)
    for path in OWN:
        found, default = config.model, plain.model
        for name in path.split(".")[1:]:
            found, default = getattr(found, name), getattr(default, name)
        assert found == own.get(path, default), path
    assert from_dict(to_dict(config)) == config


def test_a_size_in_a_file_gives_way_to_an_override(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: {size: xl, fusion: {layers: 1}}\n")
    model = load_config(str(path), [*MINIMAL, "model.hidden=256"]).model
    assert (model.hidden, model.fusion.layers, model.fusion.heads, model.text.layers) == (256, 1, 16, 4)
    assert load_config(str(path), [*MINIMAL, "model.size=base"]).model.text.layers == 1
    with pytest.raises(ConfigError, match=r"model.fusion.heads = 16 does not divide model.hidden = 24 .*heads=12"):
        load_config(str(path), [*MINIMAL, "model.hidden=24"])


@pytest.mark.parametrize("size", SIZES)
def test_a_size_reads_back_from_yaml(size: str, tmp_path: Path) -> None:
    """All keys stand in the file, so that it means the same should a size ever change."""
    config = sized(size, "model.audio.layers=3")
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config))
    assert load_config(str(path)) == config
    path.write_text(to_yaml(config).replace(f"size: {size}", "size: base"))
    again = load_config(str(path))
    assert dataclasses.replace(again.model, size=config.model.size) == config.model


@pytest.mark.parametrize("size", ["large", "xl"])
def test_the_released_model_has_no_sizes(size: str) -> None:
    with pytest.raises(ConfigError) as error:
        sized(size, "model.preset=release")
    assert f"model.size = {size} is a size of model.preset = ivr" in str(error.value)
    assert "width with model.hidden" in error.value.remedy
    assert sized("base", "model.preset=release", "model.hidden=256").model.hidden == 256


@pytest.mark.parametrize("size", SIZES)
def test_every_size_learns_in_every_parameter(size: str) -> None:
    config = sized(size, "model.dropout=0").model
    model = make_model(config)
    found = gradients(model, batch_of(make_samples([FULL, FULL, {"text": 2}, {"audio": 2}])))
    # Float32, for xl's sake: the floor lies above its rounding.
    floor = 1e-6 * norm_of_all(found)
    assert [name for name, gradient in found.items() if not float(gradient.norm()) > floor] == []
    assert sum(name.endswith("attention.query_weight") for name in found) == 2 + 4 * SIZES[size][1]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    place = tmp_path_factory.mktemp("corpus")
    pack(SynthSource(20), str(place))
    return Manifest.load(str(place / "train"))


@pytest.mark.parametrize("override", ["model.size=base", "model.text.kind=gru", "model.preset=release"])
def test_parameters_are_counted_without_making_them(train: Manifest, override: str) -> None:
    config = load_config(None, [*MINIMAL, override])
    spec = BatchSpec.from_manifest(train, config.data.modalities, [])
    model = build_model(config.model, ModelSpec(spec.modalities, spec.tasks))
    assert count_parameters(config, {"train": train}) == sum(parameter.numel() for parameter in model.parameters())


def test_parameters_of_a_text_encoder_count_where_they_are_trained(train: Manifest, tmp_path: Path) -> None:
    bert = [f"model.text.pretrained={tiny_bert(tmp_path)}", "data.modalities=[text]", "svr.modalities=[text]"]
    counts = [
        count_parameters(load_config(None, [*MINIMAL, *bert, f"model.text.trained_layers={layers}"]), {"train": train})
        for layers in ("0", "1", "2", "null")
    ]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0
    assert counts[3] > counts[2], "the embeddings"


def test_the_size_is_no_part_of_what_a_checkpoint_must_match(train: Manifest) -> None:
    """A size by name and the same keys one by one are one model."""
    keys = [f"model.{part}.{name}={value}" for part in PARTS for name, value in (("layers", 2), ("heads", 8))]
    spelled = load_config(None, [*MINIMAL, "model.hidden=512", *keys])
    spec = BatchSpec.from_manifest(train, ["text", "audio", "vision"], [])
    state = initial_state(sized("large"), spec)
    check_same_model(state, initial_state(spelled, spec), "a checkpoint")
    with pytest.raises(CheckpointMismatchError, match=r"model.hidden is 512 there and 128 here"):
        check_same_model(state, initial_state(sized("base"), spec), "a checkpoint")
    assert from_dict(dict(state.config)) == sized("large")
