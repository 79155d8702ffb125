"""Device: everything that differs between a GPU and a CPU.

No other module of the package depends on the device. The module is kept small enough to be checked by reading, since
the CUDA branches cannot run without a GPU.
"""

from __future__ import annotations

import ctypes
import os
import pickle
from collections.abc import Mapping

import torch
import torch.utils.deterministic

from ivr_dist.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_KEPT = 2**31 - 1
_CUBLAS_WORKSPACES = (":4096:8", ":16:8")


def available() -> bool:
    """Whether training uses CUDA: there is a GPU and `DS_ACCELERATOR` does not select the CPU."""
    return torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"


def describe() -> str:
    """Description of the training device, for display."""
    if not available():
        return f"CPU, {torch.get_num_threads()} threads"
    names = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
    return f"{torch.cuda.device_count()} GPUs: {', '.join(sorted(names))}"


def configure_process() -> None:
    """Set the environment variables that DeepSpeed reads; call it before `import deepspeed`."""
    if not available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        # Otherwise DeepSpeed compiles a shared-memory all-reduce for 40 s, which only its inference uses; training
        # uses gloo (decision 015).
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def tune_memory() -> None:
    """Use huge pages for CPU tensors and keep freed memory, as PyTorch's caching allocator does on a GPU.

    Call it before the first tensor is created. Every step allocates the same memory again. glibc returns large blocks
    to the system, and page faults of new blocks take about a tenth of a training step; small pages another twentieth.
    Without glibc it has no effect (decision 027).
    """
    if available():
        return
    # Read by PyTorch at its first allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
        mallopt(_M_MMAP_THRESHOLD, _MOST_KEPT)


def training_device(local_rank: int) -> torch.device:
    """The device of one worker; on CUDA it is also made the current device."""
    if not available():
        return torch.device("cpu")
    # Ray may make one GPU visible to a worker, or all GPUs of the node; in both cases each worker gets its own.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def host_buffer(tensor: torch.Tensor) -> torch.Tensor:
    """Host buffer for copies of a tensor; pinned with CUDA, so that copies are asynchronous."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=available())


def finish_copies() -> None:
    """Wait for this process's asynchronous copies to the host."""
    if available():
        torch.cuda.current_stream().synchronize()


def backend() -> str:
    """Backend of torch.distributed for this process."""
    return backend_with(gpus=available())


def backend_with(*, gpus: bool) -> str:
    """Backend of a process group whose workers have a GPU each, or none.

    Used for every process group of the package, including the one that Ray creates: counts, losses and pickled objects
    are reduced and gathered in host memory, which NCCL does not support (decision 023).
    """
    return "cpu:gloo,cuda:nccl" if gpus else "gloo"


def bound_device(local_rank: int, world: int) -> torch.device | None:
    """The GPU that a process group binds to, so that NCCL creates its communicator eagerly.

    None without a communicator: on a CPU; in a group of one, from whose communicator NCCL would otherwise split
    those of later groups; and where ranks share a GPU, which NCCL refuses.

    Args:
        local_rank: This process's number.
        world: Processes of the group, all on this machine.
    """
    if not available() or world == 1 or world > torch.cuda.device_count():
        return None
    return training_device(local_rank)


def describe_collectives() -> str:
    """Description of the collective backends, for display."""
    if not available():
        return "gloo"
    version: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return f"gloo, NCCL {'.'.join(str(part) for part in version)}"


def recorded_collectives() -> dict[str, bytes]:
    """The latest collectives of this process with their call stacks, from PyTorch's flight recorder.

    It records if `TORCH_FR_BUFFER_SIZE` was set when the process group was created.

    Returns:
        By backend with any entries: the recorder's format, a pickle of plain values.
    """
    from torch._C import _distributed_c10d

    traces = {}
    for name, dump in (("gloo", "_dump_fr_trace"), ("nccl", "_dump_nccl_trace")):
        # Private, and absent from builds without the backend; the watchdog then writes stacks only.
        recorded = getattr(_distributed_c10d, dump, bytes)()
        # Pickled by PyTorch in this process, so it is safe to load.
        if recorded and pickle.loads(recorded).get("entries"):
            traces[name] = recorded
    return traces


def cluster_has_gpus(resources: Mapping[str, float]) -> bool:
    """Whether each worker gets a GPU: by the cluster's resources, since the driver's machine may have no GPU.

    `DS_ACCELERATOR=cuda` announces GPUs of a cluster that has none yet.
    """
    accelerator = os.environ.get("DS_ACCELERATOR", "")
    return accelerator == "cuda" or (accelerator == "" and resources.get("GPU", 0) > 0)


def deterministic() -> None:
    """Use deterministic algorithms only, so that a resumed run is bitwise reproducible (decision 024).

    Call it before anything is computed. On a CPU they are deterministic anyway, and the call would import the compiler.
    """
    if not available():
        return
    # cuBLAS is deterministic with these values only, and reads the variable once; PyTorch refuses any other.
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in _CUBLAS_WORKSPACES:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = _CUBLAS_WORKSPACES[0]
    # Not `warn_only`: it would allow the nondeterministic backward pass of memory-efficient attention, which masks
    # need, and cuDNN's attention, which has no deterministic form.
    torch.use_deterministic_algorithms(True)
    # No code reads uninitialized memory; filling it would cost a kernel for each new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def refusal(error: RuntimeError) -> UserError | None:
    """The user's error if PyTorch refused an operation because of `deterministic`, else None."""
    operation, refused, _ = str(error).partition(" does not have a deterministic implementation")
    if not refused:
        return None
    return UserError(
        f"the model uses {operation}, whose results on a GPU are not repeatable, and so neither is a resumed run",
        where="model.text.pretrained",
        remedy="choose another encoder, or train on the CPU with DS_ACCELERATOR=cpu",
    )
