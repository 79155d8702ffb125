"""All that differs between a GPU and a CPU.

Small enough to be checked by reading, since the branches for CUDA cannot run where there is no GPU. Nothing else in the
package asks which device it is on.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_KEPT = 2**31 - 1


def available() -> bool:
    """Whether training uses CUDA: there is a GPU and `DS_ACCELERATOR` does not ask for the CPU."""
    return torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"


def describe() -> str:
    """What training runs on, for people."""
    if not available():
        return f"CPU, {torch.get_num_threads()} threads"
    names = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
    return f"{torch.cuda.device_count()} GPUs: {', '.join(sorted(names))}"


def configure_process() -> None:
    """Settle what DeepSpeed reads from the environment; call before `import deepspeed`."""
    if not available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        # Without this DeepSpeed compiles its own shared-memory all-reduce, 40 s of work for an op that only its
        # inference path calls; gloo carries the collectives of training.
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def tune_memory() -> None:
    """Have tensors on the CPU in huge pages, and what is freed kept, as PyTorch does on a GPU.

    Call it before the first tensor is made. Every step allocates as much again. glibc returns large blocks to the
    system, and touching new pages for them takes about a tenth of a training step; small pages another twentieth.
    Elsewhere than on Linux with glibc nothing happens.
    """
    if available():
        return
    # PyTorch's own switch, read when it allocates for the first time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
        mallopt(_M_MMAP_THRESHOLD, _MOST_KEPT)


def training_device(local_rank: int) -> torch.device:
    """The device of one worker; on CUDA also made the current one."""
    if not available():
        return torch.device("cpu")
    # Ray may show a worker its own GPU only, or all of the node's; both end on a GPU of its own.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def host_buffer(tensor: torch.Tensor) -> torch.Tensor:
    """Memory on the host for copies of a tensor, pinned where that lets a GPU copy by itself."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=available())


def finish_copies() -> None:
    """Wait for the copies to the host that this process has begun."""
    if available():
        torch.cuda.current_stream().synchronize()


def backend() -> str:
    """Backend of torch.distributed for this device."""
    return "nccl" if available() else "gloo"


def cluster_has_gpus(resources: Mapping[str, float]) -> bool:
    """Whether workers get a GPU each: by the cluster's resources, since the driver's own machine may have none."""
    return resources.get("GPU", 0) > 0 and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"


def deterministic() -> None:
    """Choose algorithms whose result depends on their inputs alone, so that a resumed run repeats itself bitwise.

    The CPU's are so anyway; asking for it there would import torch's compiler and fill every new tensor.
    """
    if available():
        # cuBLAS is only deterministic with a fixed workspace; must be set before its first call.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
