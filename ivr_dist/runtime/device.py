"""All that differs between a GPU and a CPU.

Small enough to be checked by reading, since the branches for CUDA cannot run where there is no GPU. Nothing else in the
package asks which device it is on.
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
    """Backend of torch.distributed for this process."""
    return backend_with(gpus=available())


def backend_with(*, gpus: bool) -> str:
    """Backend of a process group whose workers have a GPU each, or none.

    Every group of the package is made with it, also the one that Ray makes: counts, losses and pickled objects are
    summed and gathered as they lie, in host memory, which NCCL alone does not serve.
    """
    return "cpu:gloo,cuda:nccl" if gpus else "gloo"


def bound_device(local_rank: int, world: int) -> torch.device | None:
    """The GPU that a process group made in this process binds to, so that NCCL's communicator is formed on it at once.

    None where there is nothing to form: on a CPU, in a group of one, whose later groups NCCL would then split from a
    communicator without a peer, and where ranks share a GPU, which NCCL refuses.

    Args:
        local_rank: This process's number.
        world: Processes of the group, all on this machine.
    """
    if not available() or world == 1 or world > torch.cuda.device_count():
        return None
    return training_device(local_rank)


def describe_collectives() -> str:
    """What carries collectives here, for people."""
    if not available():
        return "gloo"
    version: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return f"gloo, NCCL {'.'.join(str(part) for part in version)}"


def recorded_collectives() -> dict[str, bytes]:
    """What PyTorch's flight recorder holds of this process's latest collectives, and where each was called.

    It records if `TORCH_FR_BUFFER_SIZE` said so when the process group was made.

    Returns:
        By backend that has any: the recorder's own format, a pickle of plain values.
    """
    from torch._C import _distributed_c10d

    found = {}
    for name, dump in (("gloo", "_dump_fr_trace"), ("nccl", "_dump_nccl_trace")):
        # Private, and only in builds that have the backend: without it there are the stacks.
        recorded = getattr(_distributed_c10d, dump, bytes)()
        # Made by PyTorch in this process, so reading it runs nothing of others.
        if recorded and pickle.loads(recorded).get("entries"):
            found[name] = recorded
    return found


def cluster_has_gpus(resources: Mapping[str, float]) -> bool:
    """Whether workers get a GPU each: by the cluster's resources, since the driver's own machine may have none.

    `DS_ACCELERATOR=cuda` says that there will be some, though the cluster has none yet.
    """
    asked = os.environ.get("DS_ACCELERATOR", "")
    return asked == "cuda" or (asked == "" and resources.get("GPU", 0) > 0)


def deterministic() -> None:
    """Choose algorithms whose result depends on their inputs alone, so that a resumed run repeats itself bitwise.

    Call it before anything is computed. The CPU's are so anyway; asking for it there would import torch's compiler.
    """
    if not available():
        return
    # cuBLAS is only deterministic with one of these, and looks once; PyTorch refuses to multiply with any other.
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in _CUBLAS_WORKSPACES:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = _CUBLAS_WORKSPACES[0]
    # Never `warn_only`: then the backward pass of memory-efficient attention, which masks need, only says that it adds
    # up in any order, and cuDNN's attention, which has no deterministic form, is not left out.
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that was not written; filling it first would be a kernel for each new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def refusal(error: RuntimeError) -> UserError | None:
    """The error for the user if PyTorch refused an operation that `deterministic` has ruled out, else None."""
    operation, refused, _ = str(error).partition(" does not have a deterministic implementation")
    if not refused:
        return None
    return UserError(
        f"the model uses {operation}, whose results on a GPU are not repeatable, and so neither is a resumed run",
        where="model.text.pretrained",
        remedy="take another encoder, or train on the CPU with DS_ACCELERATOR=cpu",
    )
