"""Fixtures of the Ray tests: one shared cluster and corpus."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import pack
from tests.ray.clusters import Cluster, local_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with local_cluster() as started:
        yield started


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("corpus"))
    pack(SynthSource(samples=334, seed=2), url)
    return url
