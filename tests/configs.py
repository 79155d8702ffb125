"""Minimal configs for tests, and parsing of config errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ivr_dist.config.loading import load_config
from ivr_dist.errors import ConfigError

MINIMAL = ("data.train=data/train", "train.select=last")
Writer = Callable[[str], str]
"""Writes a config file and returns its path."""


def refused(path: str | None, *overrides: str) -> str:
    """The one fault of a config, as the user reads it."""
    with pytest.raises(ConfigError) as error:
        load_config(path, (*MINIMAL, *overrides))
    text = str(error.value)
    assert "\n" not in text
    return text
