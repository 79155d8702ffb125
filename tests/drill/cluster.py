"""A Ray cluster on the hosts of `hosts`: the first is the head, each other one has one CPU."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ivr_dist.orchestration.ray_cluster import FAST_FAILURE_DETECTION
from tests.drill.hosts import Hosts
from tests.drill.runs import clean

_RAY = str(Path(sys.executable).with_name("ray"))
_COMMON = ["--temp-dir=/tmp/ray", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]


class Cluster:
    """See the module."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.environment = clean(
            {
                **FAST_FAILURE_DETECTION,
                "RAY_AUTH_MODE": "disabled",
                "RAY_memory_monitor_refresh_ms": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
                "OMP_NUM_THREADS": "1",
                "RAY_ADDRESS": "",
            }
        )
        self.environment.pop("RAY_ADDRESS")

    @property
    def address(self) -> str:
        """Where the head listens."""
        return f"{self.hosts.address(1)}:6379"

    def start(self, workers: int) -> None:
        """Start the head and so many hosts beside it, and wait until all are there."""
        head = [_RAY, "start", "--head", f"--node-ip-address={self.hosts.address(1)}", "--port=6379"]
        self.hosts.start(1, [*head, "--num-cpus=0", "--include-dashboard=false", *_COMMON], self.environment)
        self._wait(1)
        for host in range(2, workers + 2):
            self.add(host)
        self._wait(workers + 1)

    def add(self, host: int) -> None:
        """Start a host of the cluster."""
        join = [_RAY, "start", f"--address={self.address}", f"--node-ip-address={self.hosts.address(host)}"]
        self.hosts.start(host, [*join, "--num-cpus=1", *_COMMON], self.environment)

    def drain(self, host: int, seconds: int) -> None:
        """Tell Ray that a host will be taken away, as clouds do; it is, after so many seconds."""
        code = (
            "import sys, logging, ray\n"
            "ray.init(address=sys.argv[1], logging_level=logging.ERROR)\n"
            "print([n['NodeID'] for n in ray.nodes() if n['NodeManagerAddress'] == sys.argv[2] and n['Alive']][0])\n"
        )
        words = self.hosts.command(1, [sys.executable, "-c", code, self.address, self.hosts.address(host)])
        found = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True)
        drain = [_RAY, "drain-node", "--address", self.address, "--node-id", found.stdout.split()[-1]]
        drain += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "drill"]
        drain += ["--deadline-remaining-seconds", str(seconds)]
        subprocess.run(self.hosts.command(1, drain), env=self.environment, capture_output=True, check=True)
        threading.Timer(seconds, self.hosts.cut_power, (host,)).start()

    def words(self, words: Sequence[str]) -> list[str]:
        """A command on the head, connected to the cluster."""
        return ["env", f"RAY_ADDRESS={self.address}", *self.hosts.command(1, words)]

    def _wait(self, nodes: int) -> None:
        code = (
            "import sys, time, logging, ray\n"
            "ray.init(address=sys.argv[1], logging_level=logging.ERROR)\n"
            "while len([n for n in ray.nodes() if n['Alive']]) < int(sys.argv[2]): time.sleep(0.1)\n"
        )
        deadline = time.monotonic() + 90
        while True:
            words = self.hosts.command(1, [sys.executable, "-c", code, self.address, str(nodes)])
            done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=90, check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{done.stderr}\n{self.hosts.log(1)}")
            time.sleep(0.3)
