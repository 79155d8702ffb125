"""Ray clusters: connect to a named one or start a local one, wait for resources, and detect dead services."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from ivr_dist.common.library_errors import describe
from ivr_dist.errors import UserError
from ivr_dist.orchestration.supervisor import no_cluster
from ivr_dist.runtime import device, scratch_folders
from ivr_dist.runtime.environment import run_variables

T = TypeVar("T")

# Ray reads these when its processes start. A dead worker or node is detected in about a second instead of many.
FAST_FAILURE_DETECTION: Mapping[str, str] = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
}
_HEAD_TIMEOUT_S = 8.0
_REPORT_PERIOD_S = 30.0
_SERVICES = {"gcs_server": "control service (gcs_server)", "raylet": "raylet"}


def worker_resources(kind: str) -> dict[str, float]:
    """Resources that one worker reserves: a CPU, and a GPU if `kind` is GPU."""
    return {"CPU": 1, "GPU": 1} if kind == "GPU" else {"CPU": 1}


def cluster_kind() -> str:
    """Resource that each worker of the connected cluster computes on: GPU or CPU."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return "GPU" if device.cluster_has_gpus(resources) else "CPU"


def wait_for_resources(
    workers: int, kind: str, wait_s: float, report: Callable[[str], None], stopped: Callable[[], bool]
) -> bool:
    """Wait until the connected cluster has the resources for so many workers.

    They are requested by a placement group, to which an autoscaler responds.

    Args:
        workers: Workers that a run needs to start.
        kind: GPU or CPU, the resource that each of them needs.
        wait_s: Seconds to wait; 0 for a cluster that does not grow.
        report: Called with what is waited for, at once and every 30 s.
        stopped: Whether a stop is requested.

    Returns:
        False if a stop is requested.

    Raises:
        UserError: The cluster does not have the resources in time.
    """
    import ray

    def have() -> int:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return int(resources.get(kind, 0))

    if have() >= workers:
        return True
    if wait_s <= 0:
        raise _too_small(workers, kind, have(), wait_s)
    group = ray.util.placement_group([worker_resources(kind)] * workers, strategy="PACK")
    deadline, reported = time.monotonic() + wait_s, -_REPORT_PERIOD_S
    try:
        while not group.wait(0.5):
            if stopped():
                return False
            if time.monotonic() > deadline:
                raise _too_small(workers, kind, have(), wait_s)
            if time.monotonic() - reported >= _REPORT_PERIOD_S:
                reported = time.monotonic()
                remaining = f"{deadline - reported:.0f} s remaining"
                report(f"waiting for {workers} {kind}s; the cluster has {have()}, {remaining}")
    finally:
        ray.util.remove_placement_group(group)
    return True


def _too_small(workers: int, kind: str, have: int, wait_s: float) -> UserError:
    waited = f" after {wait_s:.0f} s" if wait_s > 0 else ""
    return UserError(
        f"run.num_workers={workers} needs as many {kind}s, and the Ray cluster has {have}{waited}",
        remedy=(f"use --num-workers {have}, or add nodes" if have else f"add nodes with {kind}s to the cluster")
        + (", or wait longer for them with run.wait_s" if wait_s > 0 else ""),
    )


def dead_service() -> str:
    """Return which service of the local cluster of this process has died; empty if none has, or there is none."""
    import ray

    node: Any = ray._private.worker._global_node
    if node is None or not node.is_head():
        return ""
    dead = {str(kind) for kind, _ in node.dead_processes()}
    return next((name for kind, name in _SERVICES.items() if kind in dead), "")


def on_head(work: Callable[[], T]) -> T:
    """Run `work` on the head node of the connected cluster, and return its result."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [
        node["NodeID"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and "node:__internal_head__" in node["Resources"]
    ]
    strategy = NodeAffinitySchedulingStrategy(heads[0], soft=False)
    result: T = ray.get(ray.remote(work).options(num_cpus=0, scheduling_strategy=strategy).remote())
    return result


@contextmanager
def connected(
    workers: int, debug: bool, *, folder: str = "", head_timeout_s: float = _HEAD_TIMEOUT_S
) -> Iterator[None]:
    """Connect to the cluster that `RAY_ADDRESS` names, or to a local one that is started here.

    Args:
        workers: Least number of CPUs of a local cluster.
        debug: Let Ray print the logs of workers.
        folder: Folder for sockets and logs of a local cluster, whose processes the caller ends; empty: a temporary one,
            and the cluster ends with the context.
        head_timeout_s: Seconds in which the head node of a named cluster must accept a connection.

    Raises:
        UserError: No cluster could be reached or started.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    own_folder = ""
    options: dict[str, Any] = {"log_to_driver": debug, "logging_level": "INFO" if debug else "ERROR"}
    if address:
        _await_head(address, head_timeout_s)
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
            options["runtime_env"] = {"env_vars": run_variables(os.environ)}
    else:
        # A local cluster has a separate folder for its sockets, and a random token. Ray makes the folder that it is
        # given accessible to everybody, so it is given one inside a folder that only this user may enter.
        folder = folder or (own_folder := scratch_folders.ray_folder())
        os.environ.update(FAST_FAILURE_DETECTION)
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(16), RAY_USAGE_STATS_ENABLED="0")
        options.update(
            num_cpus=max(workers, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=100 * 1024**2,
            _temp_dir=os.path.join(folder, "ray"),
        )
    import ray

    try:
        with _own_signals():
            ray.init(address=address or "local", **options)
    except Exception as error:  # ray.init raises them bare when a process of the cluster does not come up in time
        shutil.rmtree(own_folder, ignore_errors=True)
        raise no_cluster(address, describe(error)) from error
    try:
        yield
    finally:
        if address or own_folder:
            ray.shutdown()
        if own_folder:
            shutil.rmtree(own_folder, ignore_errors=True)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the SIGTERM handler: `ray.init` installs one that aborts the process after 3 s."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None, despite the stubs, if it was not set from Python.
        if before:
            signal.signal(signal.SIGTERM, before)


def _await_head(address: str, timeout_s: float) -> None:
    """Wait until the head node accepts a connection; Ray itself would try for a quarter of an hour.

    Raises:
        UserError: It does not in time.
    """
    host, _, port = address.rpartition(":")
    if "//" in address or not host or not port.isdigit():
        return
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
                return
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
        if time.monotonic() > deadline:
            raise no_cluster(address, why)
        time.sleep(0.5)
