"""Ray Train recognizes the backend of workers with GPUs; needs neither GPUs nor a cluster."""

from __future__ import annotations

import pytest

from ivr_dist.runtime import device

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def test_ray_train_recognizes_nccl_in_the_backend() -> None:
    """Only then do failed NCCL collectives end their worker."""
    from ray.train.torch.config import _is_backend_nccl

    assert _is_backend_nccl(device.backend_with(gpus=True))
    assert not _is_backend_nccl(device.backend_with(gpus=False))
