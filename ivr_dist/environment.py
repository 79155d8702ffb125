"""Environment variables that must go with a run to every machine it uses."""

from __future__ import annotations

from collections.abc import Mapping

_STORAGE_PREFIXES = ("AWS_", "FSSPEC_", "AZURE_STORAGE_", "GOOGLE_APPLICATION_CREDENTIALS")
_HUB_PREFIXES = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT")


def storage_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What storage libraries and the model hub read to reach and open things. Never to be logged."""
    prefixes = _STORAGE_PREFIXES + _HUB_PREFIXES
    return {name: value for name, value in environment.items() if name.startswith(prefixes)}
