"""Environment variables that must go with a run to every machine it uses."""

from __future__ import annotations

from collections.abc import Mapping

_STORAGE_PREFIXES = ("AWS_", "FSSPEC_", "AZURE_STORAGE_", "GOOGLE_APPLICATION_CREDENTIALS", "HF_TOKEN")


def storage_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What storage libraries read to reach and open a URL: endpoints and credentials. Never to be logged."""
    return {name: value for name, value in environment.items() if name.startswith(_STORAGE_PREFIXES)}
