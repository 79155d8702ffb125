"""Environment variables that a run takes to every machine of the cluster."""

from __future__ import annotations

from collections.abc import Mapping

_STORAGE_PREFIXES = ("AWS_", "FSSPEC_", "AZURE_STORAGE_", "GOOGLE_APPLICATION_CREDENTIALS")
_HUB_PREFIXES = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT")
_NETWORK_PREFIXES = (
    "NCCL_",
    "GLOO_",
    "FI_",
    "OFI_NCCL_",
    "RDMAV_",
    "UCX_",
    "TORCH_CPP_LOG_LEVEL",
    "TORCH_DISTRIBUTED_",
    "TORCH_FR_",
    "TORCH_GLOO_",
    "TORCH_NCCL_",
)
# Not CUDA_VISIBLE_DEVICES: Ray sets it to assign each worker its GPU.
_DEVICE_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "DS_ACCELERATOR",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
)

LOG_LEVEL = "IVR_DIST_LOG_LEVEL"
"""Log level of the command, which its worker processes use as well."""

RECORDER: Mapping[str, str] = {"TORCH_FR_BUFFER_SIZE": "2000"}
"""Flight recorder: how many collectives each worker keeps for the watchdog; read when a process group is created."""


def storage_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables with the addresses and credentials of storage and of the model hub. Must not be logged."""
    prefixes = _STORAGE_PREFIXES + _HUB_PREFIXES
    return {name: value for name, value in environment.items() if name.startswith(prefixes)}


def run_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that every process of a run needs unchanged: storage, network, device. Must not be logged."""
    return storage_variables(environment) | {
        name: value
        for name, value in environment.items()
        if name.startswith(_NETWORK_PREFIXES) or name in _DEVICE_VARIABLES or name == LOG_LEVEL
    }
