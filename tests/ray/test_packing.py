"""Packing and indexing as Ray tasks write the same bytes, and raise the error of a task unchanged."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from ivr_dist.corpora.source import Opener
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.errors import CorruptDataError
from ivr_dist.orchestration.packing_jobs import RayTasks
from ivr_dist.orchestration.ray_cluster import connected
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.packing.pack import PackOptions, pack
from tests.ray.clusters import Cluster

# One after the other, however many processes run the suite: they share one cluster.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

OPENER = Opener(partial(SynthSource, 120), "synth 120")
OPTIONS = PackOptions(shard_samples=10)


def tree(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def test_ray_tasks_write_the_same_bytes_as_this_process(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    pack(OPENER(), str(tmp_path / "here"), OPTIONS)
    with connected(2, debug=False):
        pool = RayTasks()
        pack(OPENER(), str(tmp_path / "ray"), OPTIONS, opener=OPENER, pool=pool)
        assert tree(tmp_path / "ray") == tree(tmp_path / "here")
        for name in ("here", "ray"):
            for path in (tmp_path / name / "train").glob("*.idx"):
                path.unlink()
        here = index_tars(str(tmp_path / "here" / "train"), corpus="c", split="train")
        assert index_tars(str(tmp_path / "ray" / "train"), corpus="c", split="train", pool=pool) == here
        assert tree(tmp_path / "ray") == tree(tmp_path / "here")
        damaged = tmp_path / "ray" / "train" / "synth-train-000002.tar"
        damaged.write_bytes(damaged.read_bytes()[:-2000])
        with pytest.raises(CorruptDataError, match=r"synth-train-000002\.tar") as caught:
            index_tars(str(tmp_path / "ray" / "train"), corpus="c", split="train", pool=pool)
        assert caught.value.remedy
