"""The modalities, in the order in which they are stored and counted everywhere."""

from __future__ import annotations

MODALITIES = ("text", "audio", "vision")
"""All modalities in the order of their discriminator labels (0, 1, 2)."""
