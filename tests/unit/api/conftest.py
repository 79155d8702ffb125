"""A folder with a small packed corpus, a config and a finished run, for tests of the public API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

import ivr_dist as ivr
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import pack

CONFIG = """\
run: {dir: runs/synth, num_workers: 0, threads: 1}
data: {train: data/synth/train, valid: data/synth/valid, test: data/synth/test}
model: {hidden: 16}
train: {global_batch: 16, max_steps: 4}
loss: {consistency: {group: 8}}
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; not to be changed."""
    folder = tmp_path_factory.mktemp("api")
    with chdir(folder):
        pack(SynthSource(samples=80, seed=5, missing=0.0), "data/synth")
        os.mkdir("configs")
        Path("configs/synth.yaml").write_text(CONFIG)
        ivr.train("configs/synth.yaml")
    return folder


@pytest.fixture
def workspace(trained: Path) -> Iterator[Path]:
    """The current directory is the folder."""
    with chdir(trained):
        yield trained
