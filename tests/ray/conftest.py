"""One cluster for all tests of Ray, but for those of how clusters are started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ray.clusters import Cluster, local_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with local_cluster() as started:
        yield started
