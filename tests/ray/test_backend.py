"""That Ray Train takes the backend that workers with GPUs are to have; needs neither GPUs nor a cluster."""

from __future__ import annotations

import pytest

from ivr_dist.runtime import device

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def test_ray_sees_nccl_in_it() -> None:
    """By which it has failed collectives of NCCL end their worker."""
    from ray.train.torch.config import _is_backend_nccl

    assert _is_backend_nccl(device.backend_with(gpus=True))
    assert not _is_backend_nccl(device.backend_with(gpus=False))
