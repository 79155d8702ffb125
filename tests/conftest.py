"""Settings that all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Two test processes share the cores: threads that wait for each other at every operation triple the time of all.
# Set before anything imports torch, and handed on to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A time limit on one example would only measure what else the machine is doing.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("local", _COMMON)
# Continuous integration draws the same examples each time: a red run is then the change's doing, and can be repeated.
settings.register_profile("ci", _COMMON, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "local"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drills take half an hour and a quiet machine: they run where they are asked for, by `-m drill`."""
    if "drill" in config.option.markexpr:
        return
    drills = [item for item in items if item.get_closest_marker("drill")]
    config.hook.pytest_deselected(items=drills)
    items[:] = [item for item in items if item not in drills]
