"""Preflight of a pool: corpora that are one and the same."""

from __future__ import annotations

from pathlib import Path

from ivr_dist.config.loading import load_config
from ivr_dist.orchestration.pool_preflight import pool_faults
from ivr_dist.orchestration.preflight import resolved
from ivr_dist.shards.manifest import Manifest
from tests.pools import pack_pool, pool_run


def test_two_entries_of_the_same_data_are_refused(tmp_path: Path) -> None:
    pack_pool(str(tmp_path))
    again = f"data.corpora.again.dir={tmp_path}/talks"
    settings = resolved(load_config(None, [*pool_run(str(tmp_path), tmp_path / "run"), again]))
    manifests = {
        f"{name}/{split}": Manifest.load(f"{tmp_path}/{folder}/{split}")
        for name, folder in (("talks", "talks"), ("calls", "calls"), ("clips", "clips"), ("again", "talks"))
        for split in ("train", "valid", "test")
    }
    found = [str(error) for error in pool_faults(settings, manifests, (1,))]
    identity = manifests["talks/train"].id
    assert any(
        f"talks and again are the same data (id {identity[:12]}" in text
        and text.endswith("keep one entry with passes: 2; two copies would come in one order")
        for text in found
    ), found
