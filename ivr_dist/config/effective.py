"""The effective config: every value of a run, and its origin."""

from __future__ import annotations

from ivr_dist.config.loading import Loaded
from ivr_dist.config.presets import preset_values
from ivr_dist.config.types import value_of
from ivr_dist.config.yaml_writer import to_yaml
from ivr_dist.sanitize import plain


def effective_yaml(loaded: Loaded) -> str:
    """Format a config as YAML, each key with the origin of its value as a comment; it reads back to an equal config."""
    origins = origins_of(loaded)
    return to_yaml(loaded.config, lambda path: plain(origins.get(path, "default")))


def origins_of(loaded: Loaded) -> dict[str, str]:
    """Origins of the values that are not defaults, by key: a file and line, an override, or a preset."""
    values = {path: value_of(loaded.config, path) for path in loaded.origins}
    name = "model.preset" if values.get("model.preset") == "release" else "model.size"
    preset = f"preset {name}={values.get(name)}"
    return dict.fromkeys(preset_values(values), preset) | dict(loaded.origins)
