"""Settings that all tests share."""

from __future__ import annotations

import os

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
