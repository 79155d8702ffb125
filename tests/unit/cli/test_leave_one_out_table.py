"""`train --leave-one-out` prints the scores of each corpus, also of one that lacks a split."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivr_dist.cli import main as cli
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import pack


def test_a_corpus_without_a_split_has_a_dash_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("talks", "calls")):
        pack(SynthSource(60, seed, dims={"text": 10, "audio": 12}, name=name), str(tmp_path / name))
    file = tmp_path / "pool.yaml"
    file.write_text(
        f"run: {{dir: {tmp_path}/run, num_workers: 0}}\n"
        "data:\n"
        f"  corpora: {{talks: {{dir: {tmp_path}/talks}}, calls: {{dir: {tmp_path}/calls, valid: ''}}}}\n"
        "  mix: {overlap: allow}\n"
        "model: {hidden: 8}\n"
        "train: {global_batch: 16, max_steps: 2, select: last, monitor: ''}\n"
    )
    assert cli.main(["train", str(file), "--leave-one-out"]) == 0
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["left", "out", "metric", "valid", "test"] in lines
    rows = {(line[0], line[1]): line[2:] for line in lines if line[:1] in (["talks"], ["calls"])}
    # No validation split remains without talks, whose own is scored nevertheless.
    assert all(cell != "-" for cell in rows["talks", "mae"])
    assert rows["calls", "mae"][0] == "-" and float(rows["calls", "mae"][1]) > 0
