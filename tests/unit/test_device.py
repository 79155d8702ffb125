"""What can be run of `device` without a GPU."""

from __future__ import annotations

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
