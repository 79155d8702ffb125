"""Clusters started and stopped by launch/local_cluster.sh, each with its own folder and ports."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.repository import ROOT

SCRIPT = ROOT / "launch" / "local_cluster.sh"


@dataclass(frozen=True)
class Cluster:
    url: str
    state: Path
    environment: dict[str, str]

    @property
    def address(self) -> str:
        """Address of Ray itself."""
        return f"127.0.0.1:{self.environment['RAY_PORT']}"

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)


def free_ports() -> tuple[int, int]:
    """Find a port for Ray such that the next one is free too, and one for the dashboard."""
    while True:
        ray_port, dashboard_port = random.sample(range(21000, 29000), 2)
        ports = {ray_port, ray_port + 1, dashboard_port}
        with suppress(OSError):
            for port in ports:
                with closing(socket.socket()) as probe:
                    probe.bind(("0.0.0.0", port))
            if len(ports) == 3:
                return ray_port, dashboard_port


@contextmanager
def local_cluster(*options: str) -> Iterator[Cluster]:
    ray_port, dashboard_port = free_ports()
    state = Path(f"/tmp/ivr-test-{os.getpid()}-{ray_port}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_PORT": str(ray_port),
        "DASHBOARD_PORT": str(dashboard_port),
        "CLUSTER_DIR": str(state),
        "VENV": sys.prefix,
        "AWS_SECRET_ACCESS_KEY": "the cluster's own",
    }
    cluster = Cluster(f"http://127.0.0.1:{dashboard_port}", state, environment)
    try:
        started = cluster.script("up", *options)
        assert started.returncode == 0, started.stderr
        yield cluster
    finally:
        ended = cluster.script("down")
        left = processes_of(state)
        shutil.rmtree(state, ignore_errors=True)
    assert ended.stdout.strip() == "Ray is down"
    assert left == []


def processes_of(state: Path) -> list[str]:
    """Command lines of the processes of a cluster, by its folder."""
    commands = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(state) in command:
                commands.append(command)
    return commands
