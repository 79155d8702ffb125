"""Clusters that are unreachable, too small or fail to start: one line within seconds, and Ctrl-C works."""

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


def test_an_address_without_a_listener(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        command(tmp_path), env={**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: no Ray cluster could be reached: Connection refused (RAY_ADDRESS=127.0.0.1:9); ")
    assert time.monotonic() - began < 30.0


def test_ctrl_c_while_a_port_that_does_not_belong_to_ray_stays_silent(tmp_path: Path) -> None:
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


def test_resources_are_requested_and_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demand is part of the cluster's state, where an autoscaler reads it."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    reports: list[str] = []
    pending: list[int] = []
    with connected(1, debug=False):
        import ray

        def stopped() -> bool:
            table = ray.util.placement_group_table()
            pending.append(sum(group["state"] == "PENDING" for group in table.values()))
            return len(pending) > 2

        assert not wait_for_resources(1000, "CPU", 60.0, reports.append, stopped)
        assert max(pending) >= 1
        assert reports and reports[0].startswith("waiting for 1000 CPUs; the cluster has ")
        with pytest.raises(UserError, match=r"needs as many CPUs, and the Ray cluster has \d+ after 1 s"):
            wait_for_resources(1000, "CPU", 1.0, reports.append, lambda: False)
        with pytest.raises(UserError, match="needs as many GPUs"):
            wait_for_resources(1, "GPU", 0.0, reports.append, lambda: False)
        assert wait_for_resources(1, "CPU", 0.0, reports.append, lambda: False)


def test_a_short_folder_replaces_a_temporary_folder_with_a_long_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("a-long-name" * 9)
    folder.mkdir()
    monkeypatch.setattr(scratch_folders.tempfile, "tempdir", str(folder))
    short = scratch_folders.ray_folder()
    try:
        assert not short.startswith(str(tmp_path))
        assert os.stat(short).st_mode & 0o077 == 0
    finally:
        os.rmdir(short)
    monkeypatch.setattr(scratch_folders.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="too long") as refused:
        scratch_folders.ray_folder()
    assert "TMPDIR" in str(refused.value)
