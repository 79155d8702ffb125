"""The run that runs with faults are compared with: in one piece, without Ray."""

from __future__ import annotations

import sys

from ivr_dist.config.loading import load_config
from ivr_dist.display.console import LocalConsole
from ivr_dist.orchestration import worker


def train_in_one_piece(rank: int, world: int, overrides: list[str]) -> None:
    """Train on this rank of a process group."""
    worker.train(load_config(None, overrides), LocalConsole(sys.stderr), rank, 0)
