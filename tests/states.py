"""Minimal valid states of checkpoints without training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ivr_dist.checkpoint.state import CheckpointState

_SMALLEST = CheckpointState(step=0, config={}, model={"preset": "ivr"}, features={}, tasks={}, statistics={})


def small_state(step: int) -> CheckpointState:
    """The state after some steps."""
    return replace(_SMALLEST, step=step)


def stored_state(step: int, **changes: Any) -> dict[str, Any]:
    """The same as the JSON object that is stored, with other values for some keys."""
    return {**small_state(step).to_json(), **changes}
