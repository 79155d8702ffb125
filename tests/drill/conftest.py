"""Fixtures of the drills: corpus, config, and a fault-free reference run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ivr_dist.config.loading import load_config
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.display.console import LocalConsole
from ivr_dist.packing.pack import pack
from ivr_dist.run.results import loss_curve
from tests.drill.cluster import Cluster
from tests.drill.hosts import Hosts, available
from tests.drill.runs import clean, overrides, train_words
from tests.ranks import run_ranks


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("corpus"))
    pack(SynthSource(samples=1600, seed=2), place)
    return place


def _train(rank: int, world: int, given: list[str]) -> None:
    from ivr_dist.orchestration import worker

    worker.train(load_config(None, given), LocalConsole(sys.stderr), rank, 0)


@pytest.fixture(scope="session")
def reference(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """The losses of the run in one piece, on two workers. Over hundreds of steps only the same size rounds alike."""
    run = tmp_path_factory.mktemp("reference") / "run"
    run_ranks(_train, 2, overrides(corpus, run))
    return loss_curve(str(run))


@pytest.fixture(scope="session")
def alone(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """The losses of the run in one piece, in one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    words = train_words(overrides(corpus, run, "run.num_workers=0"))
    subprocess.run(words, env=clean({}), check=True, capture_output=True)
    return loss_curve(str(run))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without processors, and three hosts with one each."""
    if not available():
        pytest.skip("needs root, iproute2 and util-linux")
    with Hosts(4) as hosts:
        found = Cluster(hosts)
        found.start(workers=3)
        yield found
        time.sleep(0.1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"
