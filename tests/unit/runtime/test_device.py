"""The device module, as far as it runs without a GPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch

from ivr_dist.runtime import collectives, device
from tests.batches import batch_of, gradients, make_model, mixed_samples, model_config, release_config


def test_deepspeeds_variable_selects_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert device.backend() == "gloo"
    assert device.training_device(3).type == "cpu"
    assert not device.cluster_has_gpus({"GPU": 8.0})
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    assert device.cluster_has_gpus({"GPU": 8.0})
    assert device.cluster_has_gpus({"CPU": 8.0}), "its GPUs are still to come"
    monkeypatch.delenv("DS_ACCELERATOR")
    assert device.cluster_has_gpus({"GPU": 8.0})
    assert not device.cluster_has_gpus({"CPU": 8.0})


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`device` believes that there is a GPU; what it settles for the process is put back."""
    monkeypatch.setattr(device, "available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


def test_gpu_process_groups_also_have_a_host_backend(on_cuda: None) -> None:
    assert device.backend() == device.backend_with(gpus=True)
    served = dict(part.split(":") for part in device.backend().split(","))
    assert served == {"cpu": "gloo", "cuda": "nccl"}
    assert device.backend_with(gpus=False) == "gloo"


def test_on_cuda_only_repeatable_operations_are_allowed(on_cuda: None) -> None:
    device.deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(("asked", "taken"), [(":16:8", ":16:8"), (":4096:2", ":4096:8"), ("", ":4096:8")])
def test_workspaces_with_which_pytorch_would_not_multiply(
    on_cuda: None, monkeypatch: pytest.MonkeyPatch, asked: str, taken: str
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", asked)
    device.deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == taken


def test_a_refused_operation_is_explained(on_cuda: None) -> None:
    device.deterministic()
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    explained = device.refusal(caught.value)
    assert explained is not None
    assert "the model uses put_" in str(explained) and "model.text.pretrained" in str(explained)
    assert device.refusal(RuntimeError("CUDA out of memory")) is None


@pytest.mark.parametrize("preset", ["ivr", "release"])
def test_nothing_that_training_does_is_refused(on_cuda: None, preset: str) -> None:
    """The host's part too is held to the mode; its operations are the same ones with it."""
    release = preset == "release"
    config = release_config().model if release else model_config()
    batch = batch_of(mixed_samples(6), common=6 if release else None)
    plain = gradients(make_model(config), batch)
    device.deterministic()
    strict = gradients(make_model(config), batch)
    assert all(torch.equal(strict[name], plain[name]) for name in plain)


def test_a_group_made_here_binds_to_gpus_of_its_own(on_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert device.bound_device(3, 4) == torch.device("cuda", 3)
    assert device.bound_device(0, 1) is None, "NCCL would split later groups from a communicator of one"
    assert device.bound_device(0, 5) is None, "NCCL refuses two ranks on a GPU"
    monkeypatch.setattr(device, "available", lambda: False)
    assert device.bound_device(3, 4) is None


def test_a_group_made_here_gets_its_device_and_time(on_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(device, "bound_device", lambda rank, world: f"own of {rank} of {world}")
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **more: asked.update(more, as_=backend)
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: asked.update(ended=True))
    with collectives.group("/somewhere/store", 1, 2, hang_after_s=3000):
        assert "ended" not in asked
    assert asked == {
        "as_": "cpu:gloo,cuda:nccl",
        "init_method": "file:///somewhere/store",
        "rank": 1,
        "world_size": 2,
        "timeout": timedelta(seconds=6000),
        "device_id": "own of 1 of 2",
        "ended": True,
    }


def test_the_watchdog_comes_before_the_groups_own_limit() -> None:
    assert collectives.timeout_s() == collectives.timeout_s(300) == 1800
    assert collectives.timeout_s(5000) == 10000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_used_again() -> None:
    """New pages are touched in the first rounds alone."""
    script = """
import resource, sys
import torch
from ivr_dist.runtime import device

if sys.argv[1] == "keep":
    device.tune_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def round():
    parts = [torch.ones(9 << 20) for _ in range(3)]

counts = [faults()]
for _ in range(12):
    round()
    counts.append(faults())
print(min(after - before for before, after in zip(counts[2:], counts[3:], strict=False)))
"""
    found = {}
    for how in ("keep", "leave"):
        command = [sys.executable, "-c", script, how]
        environment = os.environ | {"DS_ACCELERATOR": "cpu"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[how] = int(done.stdout)
    assert found["keep"] < 10 < 40 < found["leave"]
