"""Small runs: settings of one with every loss term, and a command that trains in one process."""

from __future__ import annotations

import sys
from pathlib import Path

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import pack


def small_run(corpus: str, run: Path) -> list[str]:
    """Overrides of a run with every loss term on, a checkpoint every 5 steps; its length is for the test to set."""
    return [
        f"data.train={corpus}/train",
        f"data.valid={corpus}/valid",
        f"data.test={corpus}/test",
        f"run.dir={run}",
        "data.shuffle_delay=50",
        "model.hidden=16",
        "model.dropout=0",
        "train.global_batch=32",
        "loss.consistency.group=16",
        "train.lr=3e-3",
        "checkpoint.every=5steps",
    ]


def train_command(folder: Path, run: Path, *overrides: str) -> list[str]:
    """Pack 120 samples and write a config; returns the command that trains it.

    Args:
        folder: For the corpus and the config.
        run: The run's directory.
        *overrides: Set over the config.
    """
    pack(SynthSource(samples=120, seed=4), str(folder / "corpus"))
    config = folder / "config.yaml"
    config.write_text(
        f"run: {{dir: {run}, num_workers: 0}}\n"
        f"data: {{train: {folder}/corpus/train}}\n"
        "train: {global_batch: 32, select: last}\n"
        "loss: {consistency: {group: 16}}\n"
    )
    return [sys.executable, "-m", "ivr_dist", "train", str(config), *overrides]
