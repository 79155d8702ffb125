"""Private parts of Ray in use still exist; without them runs recover more slowly."""

from __future__ import annotations

import inspect


def test_the_coordinator_can_recompute_its_node_list() -> None:
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as module

    assert callable(module.get_or_create_autoscaling_coordinator)
    signature = inspect.signature(module._AutoscalingCoordinatorActor.get_reserved_resources)
    assert "recompute" in signature.parameters
