"""Model inputs: modalities that are read, and reasons why others are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ivr_dist.config import Config
from ivr_dist.config.loading import Loaded, from_dict, load
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.errors import ConfigError, DataError
from ivr_dist.orchestration.preflight import preflight
from ivr_dist.packing.pack import pack
from ivr_dist.planning.model_inputs import model_inputs
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import FeatureSpec


def manifest(*features: str, transcripts: int = 0) -> Manifest:
    specs = {name: FeatureSpec(set="s", dim=20, dtype="float32", kind="features") for name in features}
    made = Manifest.create(
        corpus="films", split="train", seed=0, features=specs, tasks={}, shards=[], transcripts=transcripts
    )
    return replace(made, samples=40)


def config(**data: object) -> Config:
    return from_dict({"data": data})


def test_unused_transcripts_are_reported() -> None:
    read = model_inputs(config(), manifest("audio", transcripts=40))
    assert read.rows() == [
        ("modalities", "audio (20, standardized)"),
        ("not used", "text: 40 transcripts are packed, but no text features; set model.text.pretrained"),
        ("", "vision: the data set has none"),
    ]


def test_a_modality_left_out_by_the_config_is_reported() -> None:
    read = model_inputs(config(modalities=["audio"], standardize=[]), manifest("text", "audio"))
    assert read.rows() == [("modalities", "audio (20)"), ("not used", "text: data.modalities leaves it out")]


def test_a_pretrained_encoder_reads_transcripts() -> None:
    wanted = from_dict({"data": {"modalities": ["text"]}, "model": {"text": {"pretrained": "tiny"}}})
    assert model_inputs(wanted, manifest("audio", transcripts=3)).used == {"text": "transcripts, by tiny"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus that has no vision in its manifest."""
    place = tmp_path_factory.mktemp("corpus")
    pack(SynthSource(samples=60, seed=1), str(place))
    split = place / "train"
    found = Manifest.load(str(split))
    kept = {name: spec for name, spec in found.features.items() if name != "vision"}
    statistics = {name: each for name, each in found.statistics.items() if name != "vision"}
    replace(found, features=kept, statistics=statistics).save(str(split))
    return str(split)


def ask(corpus: str, path: Path, *overrides: str) -> Loaded:
    path.write_text(f"data: {{train: {corpus}}}\ntrain: {{select: last, global_batch: 8}}\n")
    return load(str(path), overrides)


def test_a_modality_named_on_the_command_line_must_exist(corpus: str, tmp_path: Path) -> None:
    loaded = ask(corpus, tmp_path / "run.yaml", "data.modalities=[text,vision]")
    with pytest.raises(ConfigError, match=r"data\.modalities names vision, which is not read: the data set has none"):
        preflight(loaded.config, 1, loaded)
    loaded = ask(corpus, tmp_path / "run.yaml", "data={modalities: [text, vision]}")
    with pytest.raises(ConfigError, match="vision"):
        preflight(loaded.config, 1, loaded)
    loaded = ask(corpus, tmp_path / "run.yaml")
    assert list(model_inputs(loaded.config, preflight(loaded.config, 1, loaded)[1]["train"]).used) == ["text", "audio"]


def test_nothing_to_read_is_an_error_before_the_start(corpus: str, tmp_path: Path) -> None:
    loaded = ask(corpus, tmp_path / "run.yaml", "data.modalities=[text]")
    alone = replace(loaded.config, data=replace(loaded.config.data, modalities=["vision"]))
    with pytest.raises(DataError, match=r"data\.modalities names nothing that can be read \(vision: the data set has"):
        preflight(alone, 1)
