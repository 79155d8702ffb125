"""Import of the released code's weights, from state dicts generated with its parameter names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ivr_dist.checkpoint import store, weights
from ivr_dist.cli import main as cli
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config.loading import load_config
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.display.console import LocalConsole
from ivr_dist.errors import CheckpointMismatchError
from ivr_dist.orchestration import worker
from ivr_dist.packing.pack import pack
from tests.batches import batch_of, make_samples
from tests.released import Sizes, draw, released

# The widths that tests.batches has.
SIZES = Sizes(text=6, audio=5, vision=4, hidden=8)
ROBERTA = {
    "embeddings.word_embeddings.weight": (11, 4),
    "embeddings.position_ids": (1, 5),
    "encoder.layer.0.attention.self.query.weight": (4, 4),
    "pooler.dense.bias": (4,),
}
DEAD = {"cross_attn_ta.wq.weight": (8, 8), "sp_discriminator.sp_discriminator_layer_1.bias": (4,)}


def state_dict(sizes: Sizes = SIZES, prefix: str = "", roberta: str = "bertmodel.") -> dict[str, Tensor]:
    found = {name: value.float() for name, value in draw(sizes, 0)[1].items()}
    found |= {f"{roberta}{name}": torch.rand(shape) for name, shape in ROBERTA.items()}
    found |= {name: torch.rand(shape) for name, shape in DEAD.items()}
    return {prefix + name: value for name, value in found.items()}


def write(tmp_path: Path, value: Any) -> str:
    torch.save(value, tmp_path / "release.std")
    return str(tmp_path / "release.std")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("roberta", ["bertmodel.", "text.model.", ""])
def test_the_checkpoint_predicts_what_the_weights_do(prefix: str, roberta: str, tmp_path: Path) -> None:
    source, out = write(tmp_path, state_dict(prefix=prefix, roberta=roberta)), str(tmp_path / "out")
    assert cli.main(["import-release", source, "--out", out]) == 0
    store.verify(out)
    model = weights.load_model(out).eval()
    batch = batch_of(make_samples([dict.fromkeys(MODALITIES, 4)] * 3), common=4)
    inputs = {name: part.features.double() for name, part in batch.modalities.items()}
    inputs |= {name: inputs[name].transpose(0, 1) for name in ("audio", "vision")}
    expected = released(inputs | {"label": torch.zeros(3, 1).double()}, draw(SIZES, 0)[1]).prediction
    torch.testing.assert_close(model(batch).predictions["sentiment"].double(), expected[:, 0], rtol=1e-5, atol=1e-6)
    text = load_file(Path(out) / "text_encoder.safetensors")
    assert {name: tuple(value.shape) for name, value in text.items()} == ROBERTA
    spec = weights.batch_spec(store.read_state(out))
    assert spec.common_length and spec.modalities["text"] == ("features", 6)


def test_the_kind_of_the_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write(tmp_path, state_dict()), str(tmp_path / "out")
    assert cli.main(["import-release", source, "--out", out, "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["dropped"] == {"cross_attn_ta.wq.weight": 64, "sp_discriminator.sp_discriminator_layer_1.bias": 4}
    assert found["sizes"] == {"hidden": 8, "outputs": 1, "text": 6, "audio": 5, "vision": 4}
    assert found["text_encoder"] == 44 + 5 + 16 + 4
    assert found["parameters"] == sum(value.numel() for value in draw(SIZES, 0)[1].values())
    assert "68 in 2 tensors: cross_attn_ta.wq.weight" in shown.err


def test_several_outputs_are_a_classification(tmp_path: Path) -> None:
    source, out = write(tmp_path, state_dict(Sizes(outputs=2))), str(tmp_path / "out")
    assert cli.main(["import-release", source, "--out", out]) == 0
    (task,) = weights.batch_spec(store.read_state(out)).tasks.values()
    assert (task.type, task.classes) == ("classification", 2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("corpus"))
    pack(SynthSource(samples=40, seed=1), place)
    return place


def dims_of(corpus: str) -> dict[str, int]:
    manifest = json.loads((Path(corpus) / "test" / "manifest.json").read_text())
    return {name: part["dim"] for name, part in manifest["features"].items()}


def test_it_is_scored_on_shards_and_is_no_run_to_resume(
    corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, out = f"{corpus}/test", str(tmp_path / "out")
    source = write(tmp_path, state_dict(Sizes(**dims_of(corpus))))
    assert cli.main(["import-release", source, "--out", out, "--shards", shards]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", out, "--shards", shards, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["synth/mae"] > 0
    overrides = [f"data.train={corpus}/train", "train.select=last", f"run.resume={out}", f"run.dir={tmp_path}/run"]
    sizes = ["model.preset=release", "model.hidden=8", "train.global_batch=8", "train.max_steps=1"]
    with pytest.raises(CheckpointMismatchError, match="weights only"):
        worker.run_in_process(load_config(None, overrides + sizes), LocalConsole(sys.stderr))


def altered(**changes: Tensor | None) -> dict[str, Tensor]:
    merged: dict[str, Tensor | None] = {**state_dict(), **{name.replace("__", "."): v for name, v in changes.items()}}
    return {name: value for name, value in merged.items() if value is not None}


FAULTS: dict[str, tuple[Any, str]] = {
    "a list": ([1, 2], "it contains more than tensors"),
    "numbers": ({"a": 1}, "it contains more than tensors"),
    "another model": ({"a": torch.ones(2)}, "shared.shared_1.weight occurs 0 times"),
    "two models": (state_dict() | state_dict(prefix="b."), "shared.shared_1.weight occurs 2 times"),
    "no head": (altered(fusion__fusion_layer_3__weight=None), "no matrix fusion.fusion_layer_3.weight"),
    "one missing": (altered(norm_atten2__bias=None), "norm_atten2.bias is absent"),
    "another shape": (altered(norm_atten2__bias=torch.ones(3)), "norm_atten2.bias is [3], the release has [8]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_none_is_a_users_mistake(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value, said = FAULTS[fault]
    source, out = write(tmp_path, value), tmp_path / "out"
    assert cli.main(["import-release", source, "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and len(shown.err.splitlines()) == 1
    assert not out.exists()


class Harmful:
    def __reduce__(self) -> Any:
        return (print, ("code of a stranger ran",))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn", b"\x80\x04."], ids=repr)
def test_a_file_that_cannot_be_read_is_a_users_mistake(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "release.std"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["import-release", str(path), "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_code_in_the_file_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path, {"a": Harmful()})
    assert cli.main(["import-release", source, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1


def test_shards_of_other_widths_and_folders_in_use_are_refused(
    corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write(tmp_path, state_dict()), tmp_path / "out"
    shards = ["--shards", f"{corpus}/test"]
    assert cli.main(["import-release", source, "--out", str(out), *shards]) == 2
    assert "where training has text features of width 6" in capsys.readouterr().err
    wide = write(tmp_path, state_dict(Sizes(**dims_of(corpus), outputs=3)))
    assert cli.main(["import-release", wide, "--out", str(out), *shards]) == 2
    assert "one task of 3 output(s)" in capsys.readouterr().err
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert cli.main(["import-release", source, "--out", str(out)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
