"""What can be run of `device` without a GPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from ivr_dist import device


def test_a_cpu_is_asked_for_by_deepspeeds_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert device.backend() == "gloo"
    assert device.training_device(3).type == "cpu"
    assert not device.cluster_has_gpus({"GPU": 8.0})
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    assert device.cluster_has_gpus({"GPU": 8.0})
    assert not device.cluster_has_gpus({"CPU": 8.0})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_used_again() -> None:
    """New pages are touched in the first rounds alone."""
    script = """
import resource, sys
import torch
from ivr_dist import device

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
