"""Clusters that are gone, not whole yet, or cannot be started: told in one line, in seconds, and Ctrl-C is heard."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.errors import UserError
from ivr_dist.orchestration.ray_cluster import connected, wait_for_resources
from ivr_dist.packing.pack import pack
from ivr_dist.runtime import scratch_folders
from tests.ray.clusters import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def command(tmp_path: Path, *more: str) -> list[str]:
    pack(SynthSource(samples=120, seed=2), str(tmp_path / "corpus"))
    given = [f"data.train={tmp_path}/corpus/train", f"run.dir={tmp_path}/run", "run.num_workers=1"]
    config = tmp_path / "config.yaml"
    config.write_text("loss: {consistency: {group: 16}}\ntrain: {global_batch: 32, max_steps: 2, select: last}\n")
    return [sys.executable, "-m", "ivr_dist", "train", str(config), *given, *more]


def test_an_address_where_nobody_listens(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        command(tmp_path), env={**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: no Ray cluster could be reached: Connection refused (RAY_ADDRESS=127.0.0.1:9); ")
    assert time.monotonic() - began < 30.0


def test_ctrl_c_while_a_port_that_is_no_ray_does_not_answer(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        process = subprocess.Popen(
            command(tmp_path),
            env={**os.environ, "RAY_ADDRESS": f"127.0.0.1:{server.getsockname()[1]}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        while "connecting to the Ray cluster" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(3.0)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert time.monotonic() - sent < 5.0


def test_room_is_waited_for_and_asked_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demand stands in the cluster's state, where an autoscaler reads it."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    said: list[str] = []
    pending: list[int] = []
    with connected(1, debug=False):
        import ray

        def stopped() -> bool:
            table = ray.util.placement_group_table()
            pending.append(sum(group["state"] == "PENDING" for group in table.values()))
            return len(pending) > 2

        assert not wait_for_resources(1000, "CPU", 60.0, said.append, stopped)
        assert max(pending) >= 1
        assert said and said[0].startswith("waiting for 1000 CPUs; the cluster has ")
        with pytest.raises(UserError, match=r"needs as many CPUs, and the Ray cluster has \d+ after 1 s"):
            wait_for_resources(1000, "CPU", 1.0, said.append, lambda: False)
        with pytest.raises(UserError, match="needs as many GPUs"):
            wait_for_resources(1, "GPU", 0.0, said.append, lambda: False)
        assert wait_for_resources(1, "CPU", 0.0, said.append, lambda: False)


def test_a_long_folder_for_temporary_files_is_left_for_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("a-long-name" * 9)
    folder.mkdir()
    monkeypatch.setattr(scratch_folders.tempfile, "tempdir", str(folder))
    place = scratch_folders.ray_folder()
    try:
        assert not place.startswith(str(tmp_path))
        assert os.stat(place).st_mode & 0o077 == 0
    finally:
        os.rmdir(place)
    monkeypatch.setattr(scratch_folders.os, "access", lambda place, mode: False)
    with pytest.raises(UserError, match="too long") as refused:
        scratch_folders.ray_folder()
    assert "TMPDIR" in str(refused.value)
