"""Several hosts on one machine: network, mount, host name and process namespaces, connected by a bridge.

Each host has its own address, host name, /dev/shm and Ray directory; the file system is shared, as over NFS. Killing a
host's first process is a power cut, taking its cable down is a cut cable. Nothing is added to the machine's own
network. Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_BOOT = """
hostname "$1"; mount -t tmpfs -o size=512m tmpfs /dev/shm; mount --bind "$2" /etc/hosts
mkdir -p /tmp/ray; mount --bind "$3" /tmp/ray; shift 3
"$@" & child=$!
trap 'kill -TERM $child' TERM
wait $child
"""


def available() -> bool:
    """Whether hosts can be made here."""
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in ("ip", "unshare", "nsenter"))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """`count` hosts with addresses `10.79.0.1` and up.

    Use it in a `with` statement: all hosts and their processes are gone after it.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._prefix = f"ivr{os.getpid() % 10000}"
        self._state = Path(tempfile.mkdtemp(prefix="ivr-hosts-"))
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Hosts:
        switch = f"{self._prefix}sw"
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        lines = ["127.0.0.1 localhost"]
        for host in range(1, self.count + 1):
            space = self._space(host)
            _ip("netns", "add", space)
            _ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", f"p{host}", "netns", switch)
            _ip("-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", switch, "link", "set", f"p{host}", "master", "br0")
            _ip("-n", switch, "link", "set", f"p{host}", "up")
            lines.append(f"{self.address(host)} node{host}")
            (self._state / f"ray{host}").mkdir()
        (self._state / "hosts").write_text("\n".join(lines) + "\n")
        return self

    def __exit__(self, *_: object) -> None:
        for host in list(self._running):
            self.cut_power(host)
        for space in [self._space(host) for host in range(1, self.count + 1)] + [f"{self._prefix}sw"]:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)
        shutil.rmtree(self._state, ignore_errors=True)

    def address(self, host: int) -> str:
        """Its IP address."""
        return f"10.79.0.{host}"

    def start(self, host: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command as what the host does."""
        shutil.rmtree(self._state / f"ray{host}", ignore_errors=True)
        (self._state / f"ray{host}").mkdir()
        inside = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
        places = [f"node{host}", str(self._state / "hosts"), str(self._state / f"ray{host}")]
        with open(self._state / f"host{host}.log", "ab") as log:
            self._running[host] = subprocess.Popen(
                ["ip", "netns", "exec", self._space(host), *inside, "bash", "-c", _BOOT, "_", *places, *command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def command(self, host: int, words: Sequence[str]) -> list[str]:
        """The words that run a command inside a running host."""
        enter = ["nsenter", "--target", str(self._first(host)), "--net", "--mount", "--uts", "--pid", "--"]
        return [*enter, *words]

    def cut_power(self, host: int) -> None:
        """Everything on the host is gone at once."""
        process = self._running.pop(host)
        with suppress(ProcessLookupError, RuntimeError):
            os.kill(self._first_of(process.pid), signal.SIGKILL)
        process.kill()
        process.wait()

    def cable(self, host: int, plugged: bool) -> None:
        """Plug or unplug the host's cable, at the switch."""
        _ip("-n", f"{self._prefix}sw", "link", "set", f"p{host}", "up" if plugged else "down")

    def log(self, host: int) -> str:
        """What the host's command has printed."""
        return (self._state / f"host{host}.log").read_text(errors="replace")

    def _space(self, host: int) -> str:
        return f"{self._prefix}n{host}"

    def _first(self, host: int) -> int:
        return self._first_of(self._running[host].pid)

    @staticmethod
    def _first_of(outer: int) -> int:
        """The first process inside of the namespaces: the only child of `unshare`, which `ip` has become."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
            if children:
                return int(children[0])
            time.sleep(0.02)
        raise RuntimeError("the host did not start")
