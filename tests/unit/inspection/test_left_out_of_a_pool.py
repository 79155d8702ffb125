"""A pool that leaks: refused, or trained without the training copies, exactly as with a list of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr_dist.cli import main as cli
from ivr_dist.corpora.source import SampleRef, SourceSample
from ivr_dist.inspection.audit import audit
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.run.results import loss_curve
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import FeatureSpec, TaskSpec
from ivr_dist.shards.split_hashes import first_ids

LEAKING = ("one_train_3", "one_train_11", "one_train_17")


@dataclass(frozen=True)
class Spoken:
    """Numbered samples; some texts of the first corpus' train are in the second one's test."""

    corpus: str
    sizes: Mapping[str, int]
    shared: Sequence[str]

    @property
    def features(self) -> dict[str, FeatureSpec]:
        return {"text": FeatureSpec(set="words4", dim=4, dtype="float32", kind="features")}

    @property
    def tasks(self) -> dict[str, TaskSpec]:
        return {"sentiment": TaskSpec(type="regression", low=-3, high=3)}

    def splits(self) -> dict[str, list[SampleRef]]:
        return {
            split: [SampleRef(number, f"{self.corpus}_{split}_{number}") for number in range(size)]
            for split, size in self.sizes.items()
        }

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        random = np.random.default_rng([ref.number, len(split), len(self.corpus)])
        text = f"these are the words of {ref.id}"
        if self.shared and split == "test":
            text = f"These are the words of {self.shared[ref.number]}!"
        arrays = {"text": random.normal(size=(3, 4)).astype(np.float32)}
        return SourceSample(ref.id, split, None, {"sentiment": float(random.uniform(-3, 3))}, text, {}, arrays)


def test_a_pool_trains_without_the_training_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = PackOptions(shard_samples=7)
    pack(Spoken("one", {"train": 40, "valid": 5}, ()), str(tmp_path / "one"), small)
    pack(Spoken("two", {"train": 30, "test": 3}, LEAKING), str(tmp_path / "two"), small)
    (tmp_path / "config.yaml").write_text(
        "run: {num_workers: 0}\n"
        "data:\n"
        "  modalities: [text]\n"
        "  standardize: []\n"
        f"  corpora: {{one: {{dir: {tmp_path}/one}}, two: {{dir: {tmp_path}/two}}}}\n"
        "model: {hidden: 8}\n"
        "train: {global_batch: 16, max_steps: 10, select: last, monitor: ''}\n"
    )
    listed = tmp_path / "copies.txt"
    listed.write_text("".join(f"one\t{id_}\n" for id_ in LEAKING))

    def train(name: str, *overrides: str) -> tuple[int, str]:
        code = cli.main(["train", str(tmp_path / "config.yaml"), f"run.dir={tmp_path}/{name}", *overrides])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = train("refused")
    assert code == 2 and "3 texts of two test are trained on in one train: " in said
    assert '"These are the words of one_train_3!" (two_test_0)' in said
    assert "data.mix.overlap to drop" in said

    def plan(*overrides: str) -> tuple[str, dict[str, Any]]:
        config = str(tmp_path / "config.yaml")
        assert cli.main(["train", config, "--dry-run", *overrides]) == 0
        shown = capsys.readouterr().out
        assert cli.main(["plan", config, "--json", *overrides]) == 0
        (one,) = json.loads(capsys.readouterr().out)
        return shown, one

    _, whole = plan("data.mix.overlap=allow")
    assert "excluded" not in whole and [row["left_out"] for row in whole["corpora"]] == [0, 0]
    for overrides in (["data.mix.overlap=drop"], ["data.mix.overlap=allow", f"data.exclude={listed}"]):
        shown, one = plan(*overrides)
        assert "leaves out 3 of 40 samples of one/train" in shown and "40 (3 left out)" in shown
        assert [line.split(maxsplit=2)[2] for line in shown.splitlines() if line.startswith("left out")] == [
            "3 samples of one/train"
        ]
        assert one["excluded"] == {"one/train": 3} and [row["left_out"] for row in one["corpora"]] == [3, 0]
        # They keep their slots in the mix, and are not read.
        assert one["pool"] == whole["pool"]
        assert one["corpora"][0]["step_bytes"] < whole["corpora"][0]["step_bytes"]
        assert one["corpora"][1]["step_bytes"] == whole["corpora"][1]["step_bytes"]

    code, said = train("dropping", "data.mix.overlap=drop")
    assert code == 0, said
    assert "data.mix.overlap=drop leaves out 3 of 40 samples of one/train: 3 by text" in said
    code, said = train("listing", "data.mix.overlap=allow", f"data.exclude={listed}")
    assert code == 0, said
    assert "data.exclude leaves out 3 of 40 samples of one/train" in said
    curve = loss_curve(str(tmp_path / "dropping"))
    assert len(curve) == 10 and curve == loss_curve(str(tmp_path / "listing"))
    for name, key in (("dropping", "data.mix.overlap"), ("listing", "data.exclude")):
        report = audit(str(tmp_path / name))
        assert report.ok and f"70 samples, 3 left out by {key}" in report.summary
        assert sum(epoch.left_out for epoch in report.epochs if epoch.corpus == "one" and epoch.epoch == 0) == 3

    manifest = Manifest.load(str(tmp_path / "one" / "train"))
    other = next(id_ for id_ in first_ids(str(tmp_path / "one" / "train"), manifest, 9) if id_ not in LEAKING)
    listed.write_text(f"{other}\n")
    code, said = train("dropping", "data.mix.overlap=drop", f"data.exclude={listed}")
    assert code == 2 and "of one/train there, 4 samples (list " in said
    code, said = train("dropping", "data.mix.overlap=drop", f"data.exclude={listed}", "train.max_steps=12")
    assert code == 2 and "of one/train there, 4 samples (list " in said
