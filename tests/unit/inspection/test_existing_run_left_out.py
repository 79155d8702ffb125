"""A run goes on, or shows its result, only with the list of samples to leave out that it was started with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ivr_dist.cli import main as cli
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.exclusions import read_excluded
from ivr_dist.inspection.audit import audit
from ivr_dist.packing.pack import pack
from ivr_dist.run.results import loss_curve
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.split_hashes import first_ids


def newest(run: Path) -> str:
    return str(max((run / "checkpoints").iterdir()))


def test_the_life_of_a_run_with_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(SynthSource(60), str(tmp_path / "corpus"))
    manifests = {name: Manifest.load(str(tmp_path / "corpus" / name)) for name in ("train", "valid", "test")}
    ids = {name: first_ids(str(tmp_path / "corpus" / name), each, 99) for name, each in manifests.items()}
    listed = tmp_path / "withdrawn.txt"
    listed.write_text(f"{ids['train'][3]}\n{ids['train'][9]}\n{ids['test'][0]}\n")
    (tmp_path / "config.yaml").write_text(
        f"run: {{dir: {tmp_path}/run, num_workers: 0}}\n"
        f"data: {{train: {tmp_path}/corpus/train, valid: {tmp_path}/corpus/valid, test: {tmp_path}/corpus/test}}\n"
        "model: {hidden: 8}\n"
        "train: {global_batch: 16, max_steps: 4}\n"
    )

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.main(list(arguments))
        said = capsys.readouterr()
        return code, said.out + said.err

    train = ("train", str(tmp_path / "config.yaml"), f"data.exclude={listed}")
    code, said = run(*train)
    assert code == 0
    assert "data.exclude leaves out 2 of 42 samples of train" in said
    assert "data.exclude leaves out 1 of 9 samples of test" in said
    assert re.search(r"left out +1 samples of test", said)
    kept = read_excluded(str(tmp_path / "run"), manifests["train"].id)
    assert kept.numbers.tolist() == [3, 9]
    report = audit(str(tmp_path / "run"))
    assert report.ok and [(epoch.seen, epoch.left_out) for epoch in report.epochs] == [(40, 2), (16, 0)]
    code, said = run("evaluate", newest(tmp_path / "run"))
    assert code == 0 and "1 samples are not scored, because the run leaves them out" in said

    code, said = run(*train)
    assert code == 0 and loss_curve(str(tmp_path / "run")), "it shows its result"
    moved = listed.rename(tmp_path / "elsewhere.txt")
    assert run(*train[:2], f"data.exclude={moved}")[0] == 0, "wherever the file is"
    moved.write_text(f"{moved.read_text()}{ids['train'][5]}\n")
    code, said = run(*train[:2], f"data.exclude={moved}")
    assert code == 2
    assert "is a run that leaves out other samples: 2 samples (list " in said
    assert "of train there, 3 samples (list " in said
    code, said = run(*train[:2])
    assert code == 2 and "of train there, none here" in said
    code, said = run(*train[:2], f"data.exclude={moved}", "train.max_steps=6")
    assert code == 2 and "of train there, 3 samples" in said
    moved.write_text("synth_00000000000\n")
    code, said = run(*train[:2], f"data.exclude={moved}")
    assert code == 2 and "data.exclude: no split has synth_00000000000" in said and "did you mean" in said
