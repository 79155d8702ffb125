"""Environment variables that go with a run."""

from __future__ import annotations

import os

import pytest

from ivr_dist.orchestration.ray_cluster import connected
from ivr_dist.runtime.environment import RECORDER, run_variables, storage_variables

STORAGE = {"AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": "http://x", "HF_HUB_OFFLINE": "1"}
NETWORK = {
    "NCCL_SOCKET_IFNAME": "ib0",
    "NCCL_DEBUG": "INFO",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": "/tmp/nccl_",
    "TORCH_FR_BUFFER_SIZE": "10000",
    "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
    "GLOO_SOCKET_IFNAME": "eth1",
    "FI_PROVIDER": "efa",
    "OFI_NCCL_DISABLE_DMABUF": "1",
    "RDMAV_FORK_SAFE": "1",
    "UCX_TLS": "rc",
}
DEVICE = {
    "DS_ACCELERATOR": "cpu",
    "CUBLAS_WORKSPACE_CONFIG": ":16:8",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "CUDA_LAUNCH_BLOCKING": "1",
}
OWN = {
    "HOME": "/root",
    "HF_HOME": "/home/me/hub",
    "RAY_ADDRESS": "auto",
    "CUDA_VISIBLE_DEVICES": "0",
    "CUDA_HOME": "/usr/local/cuda",
    "PATH": "/bin",
    "TORCH_HOME": "/home/me/torch",
    "LD_LIBRARY_PATH": "/lib",
    "FILES": "x",
}


def test_what_a_run_needs_travels_and_nothing_else() -> None:
    assert run_variables(STORAGE | NETWORK | DEVICE | OWN) == STORAGE | NETWORK | DEVICE
    assert storage_variables(STORAGE | NETWORK | DEVICE | OWN) == STORAGE


def test_workers_of_another_cluster_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    for name in [name for name in os.environ if name in run_variables(os.environ)]:
        monkeypatch.delenv(name)
    for name, value in (STORAGE | NETWORK | DEVICE).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with connected(2, debug=False):
        pass
    assert calls[0]["runtime_env"] == {"env_vars": STORAGE | NETWORK | DEVICE}


def test_the_recorder_is_among_them() -> None:
    assert run_variables(RECORDER) == RECORDER
