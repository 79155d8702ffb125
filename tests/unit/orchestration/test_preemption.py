"""What is used of Ray's private parts is there: without it runs go on, only later after a loss."""

from __future__ import annotations

import inspect


def test_the_coordinator_can_be_asked_to_look_anew() -> None:
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as module

    assert callable(module.get_or_create_autoscaling_coordinator)
    asked = inspect.signature(module._AutoscalingCoordinatorActor.get_reserved_resources)
    assert "recompute" in asked.parameters
