"""Environment variables that must go with a run to every machine it uses."""

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
# Not CUDA_VISIBLE_DEVICES, by which Ray gives each worker its own GPU.
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
"""How many collectives each worker remembers for the watchdog to write down; read when a process group is made."""


def storage_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What storage libraries and the model hub read to reach and open things. Never to be logged."""
    prefixes = _STORAGE_PREFIXES + _HUB_PREFIXES
    return {name: value for name, value in environment.items() if name.startswith(prefixes)}


def run_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """All that a run's processes must find as the user set it: storage, network, device. Never to be logged."""
    return storage_variables(environment) | {
        name: value
        for name, value in environment.items()
        if name.startswith(_NETWORK_PREFIXES) or name in _DEVICE_VARIABLES or name == LOG_LEVEL
    }
