"""Environment diagnostics: tools, devices, network, collectives, storage, and the Ray cluster that training needs."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from ivr_dist import storage
from ivr_dist.common.library_errors import describe, remedy_for
from ivr_dist.errors import IvrError
from ivr_dist.runtime import collectives, device, network_interface

_PACKAGES = ("torch", "deepspeed", "ray", "webdataset", "s3fs", "tensorboard")
_RANKS = 2
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    verdict: Literal["ok", "note", "BAD"]
    what: str
    """Subject of the check."""
    found: str
    """What was found."""
    remedy: str = ""


def examine(url: str | None) -> list[Finding]:
    """Run all checks.

    Args:
        url: A directory or URL below which a file is written, read and deleted; None: storage is not checked.
    """
    findings = [*_machine(), _network(), _collectives()]
    if url is not None:
        findings.append(_storage(storage.absolute(url)))
    if os.environ.get("RAY_ADDRESS"):
        findings += _cluster()
    return findings


def _machine() -> Iterator[Finding]:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    yield Finding("ok", "packages", f"Python {platform.python_version()}, {versions}")
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    remedy = "" if compiler else "DeepSpeed looks for one: install it (Debian: apt-get install g++), or set CXX"
    yield Finding("ok" if compiler else "BAD", "C++ compiler", compiler or "none", remedy)
    ninja = shutil.which("ninja")
    yield Finding(
        "ok" if ninja else "note", "ninja", ninja or "none", "" if ninja else "only DeepSpeed's own ops need it"
    )
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    enough = free > 1.0
    yield Finding(
        "ok" if enough else "BAD",
        "temporary space",
        f"{free:.1f} GB in {tempfile.gettempdir()}",
        "" if enough else "free some, or set TMPDIR",
    )
    yield Finding("ok", "device", device.describe())


def _network() -> Finding:
    """Check which network interface gloo uses."""
    address = network_interface.gloo_address()
    others = {name: own for name, own in network_interface.interfaces().items() if own != address}
    shown = ", ".join(f"{name} {own}" for name, own in others.items()) or "none"
    if not address:
        text = f"GLOO_SOCKET_IFNAME={os.environ['GLOO_SOCKET_IFNAME']} is no interface with an address; others: {shown}"
        return Finding("BAD", "network", text, "set GLOO_SOCKET_IFNAME to one of the others, or unset it")
    text = f"gloo uses {address}; others: {shown}"
    if network_interface.is_loopback(address):
        return Finding("note", "network", text, _reachable_remedy(socket.gethostname()))
    return Finding("ok", "network", text)


def _reachable_remedy(host: str) -> str:
    return f"for workers on several nodes, make the name {host} resolve to its address, or set GLOO_SOCKET_IFNAME"


def _collectives() -> Finding:
    """Check collectives: two processes sum a tensor."""
    import torch.multiprocessing as mp

    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="ivr-doctor-") as scratch:
            mp.spawn(_sum, (_RANKS, str(Path(scratch) / "store")), nprocs=_RANKS)  # type: ignore
    except Exception as error:  # any failure is the result of this check
        return Finding("BAD", "collectives", describe(error), remedy_for(error) or "see GLOO_SOCKET_IFNAME")
    carried = device.describe_collectives()
    return Finding("ok", "collectives", f"{carried}, {_RANKS} processes, {time.monotonic() - started:.1f} s")


def _sum(rank: int, world: int, store: str) -> None:
    import torch

    with collectives.group(store, rank, world):
        total = float(collectives.sum_over_ranks(torch.ones(1)))
    if total != world:
        raise RuntimeError(f"the sum over {world} processes was {total}")


def _storage(url: str) -> Finding:
    """Check storage: write a file, list it, read it, fail to create it again, and delete it."""
    target = storage.join(url, f".ivr-doctor-{uuid.uuid4().hex}")
    data = os.urandom(1 << 20)
    started = time.monotonic()
    try:
        first, second = storage.create_exclusive(target, data), storage.create_exclusive(target, data[::-1])
        read = storage.read_bytes(target)
        listed = target.rsplit("/", 1)[-1] in storage.list_dir(url)
        storage.delete_tree(target)
    except IvrError as error:
        return Finding("BAD", "storage", str(error), "check the credentials and AWS_ENDPOINT_URL")
    seconds = time.monotonic() - started
    if not first or second or read != data or not listed:
        return Finding("BAD", "storage", f"{storage.display(url)} does not keep what is written", "use another store")
    return Finding("ok", "storage", f"{storage.display(url)}: 1 MiB written, read and deleted in {seconds:.2f} s")


def _cluster() -> Iterator[Finding]:
    from ivr_dist.orchestration.ray_cluster import FAST_FAILURE_DETECTION, connected, on_head

    try:
        with connected(1, False):
            import ray

            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            nodes = len([node for node in ray.nodes() if node["Alive"]])  # type: ignore[no-untyped-call]
            counted = ", ".join(f"{resources.get(kind, 0):.0f} {kind}s" for kind in ("CPU", "GPU"))
            yield Finding("ok", "cluster", f"{nodes} nodes, {counted}, Ray {ray.__version__}")
            settings: Callable[[], dict[str, str]] = _head_settings
            head = on_head(settings)
            yield from _reachable(_addresses())
    except IvrError as error:
        yield Finding("BAD", "cluster", str(error))
        return
    slow = [name for name, value in FAST_FAILURE_DETECTION.items() if float(head.get(name, "inf")) > float(value)]
    if slow:
        variables = " ".join(f"{name}={FAST_FAILURE_DETECTION[name]}" for name in slow)
        text = "Ray's defaults: a dead node is detected after 13 s, a network partition after 60 s"
        yield Finding("note", "failure detection", text, f"start the head node with {variables}")
    else:
        yield Finding("ok", "failure detection", "a dead node is detected within seconds")


def _addresses() -> dict[str, str]:
    """Gloo's address on each node of the connected cluster, by host name."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(network_interface.gloo_address)
    answers = {
        node["NodeManagerHostname"]: task.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    }
    return dict(zip(answers, ray.get(list(answers.values())), strict=True))


def _reachable(addresses: Mapping[str, str]) -> Iterator[Finding]:
    """Check that workers on several nodes can reach each other."""
    unreachable = [host for host, address in addresses.items() if not address or network_interface.is_loopback(address)]
    if unreachable and len(addresses) > 1:
        text = f"gloo has no address that other nodes can reach on {', '.join(sorted(unreachable))}"
        yield Finding("BAD", "network of the cluster", text, _reachable_remedy(unreachable[0]))


def _head_settings() -> dict[str, str]:
    """Ray's settings in the environment of the head node's control service."""
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"gcs_server" in (folder / "cmdline").read_bytes().split(b"\0")[0]:
                lines = (folder / "environ").read_bytes().split(b"\0")
                pairs = (line.decode(errors="replace").partition("=") for line in lines)
                return {name: value for name, _, value in pairs if name.startswith("RAY_")}
        except OSError:
            continue
    return {}
