"""Fixtures of the distributed tests: corpora and configs."""

from __future__ import annotations

import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import pack


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """234 training samples: 7 full batches of 32 and a short one an epoch."""
    place = str(tmp_path_factory.mktemp("corpus"))
    pack(SynthSource(samples=334, seed=1), place)
    return place
