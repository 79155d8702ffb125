"""Settings shared by all tests."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# Two test processes share the cores: threads that wait for each other at every operation triple the time of all.
# Set before anything imports torch, and handed on to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Whoever starts the tests may have these ignored (nohup, a shell in the background); the commands under test would be
# born so, and what they do when they are sent is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A time limit on one example would only measure what else the machine is doing.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("local", _COMMON)
# Continuous integration draws the same examples each time: a red run is then the change's doing, and can be repeated.
settings.register_profile("ci", _COMMON, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "local"))


_ELSEWHERE = ("drill", "long")
"""Marks of tests that `make test` leaves out: half an hour on a quiet machine, and slow by nature."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless its mark is asked for by `-m`."""
    left_out = [mark for mark in _ELSEWHERE if mark not in config.option.markexpr]
    others = [item for item in items if any(item.get_closest_marker(mark) for mark in left_out)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
