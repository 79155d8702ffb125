"""The command after packing: it names the splits there are, with a batch that fits."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.next_command import next_command
from ivr_dist.packing.pack import PackSummary, pack
from ivr_dist.shards.manifest import Manifest


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PackSummary]:
    folder = tmp_path_factory.mktemp("my data")
    return folder, pack(SynthSource(60), str(folder))


def with_samples(summary: PackSummary, **samples: int) -> PackSummary:
    splits = {split.split: split for split in summary.splits}
    return replace(summary, splits=tuple(replace(splits[name], samples=n) for name, n in samples.items()))


def test_the_command_names_every_split(packed: tuple[Path, PackSummary]) -> None:
    folder, summary = packed
    words = shlex.split(next_command(with_samples(summary, train=900, valid=9, test=9), f"{folder}/"))
    assert words == [
        *("ivr-dist", "train", "configs/quickstart.yaml", "run.dir=runs/synth"),
        *(f"data.{split}={folder}/{split}" for split in ("train", "valid", "test")),
    ]


def test_a_small_corpus_gets_a_small_batch(packed: tuple[Path, PackSummary]) -> None:
    folder, summary = packed
    command = next_command(with_samples(summary, train=44, valid=9), str(folder))
    assert command.endswith("data.test= train.global_batch=8 loss.consistency.group=8")
    assert "train.global_batch=1 " in next_command(with_samples(summary, train=2, valid=9), str(folder))


def test_words_alone_are_trained_without_the_terms_for_several_modalities(tmp_path: Path) -> None:
    summary = pack(SynthSource(60, text="tokens"), str(tmp_path))
    assert "loss" not in next_command(with_samples(summary, train=900, valid=9), str(tmp_path))
    manifest = Manifest.load(str(tmp_path / "train"))
    replace(manifest, features={"text": manifest.features["text"]}, statistics={}).save(str(tmp_path / "train"))
    command = next_command(with_samples(summary, train=900, valid=9), str(tmp_path))
    assert command.endswith("loss.adversary.weight=0 loss.reconstruction.weight=0 loss.svr.weight=0")


def test_what_cannot_be_trained_on_is_looked_at(packed: tuple[Path, PackSummary], tmp_path: Path) -> None:
    folder, summary = packed
    assert next_command(with_samples(summary, test=5), "out") == "ivr-dist inspect out"
    replace(Manifest.load(str(folder / "train")), features={}, statistics={}).save(str(tmp_path / "train"))
    assert next_command(summary, str(tmp_path)) == f"ivr-dist inspect {tmp_path}"
