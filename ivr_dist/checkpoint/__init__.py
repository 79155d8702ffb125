"""Checkpoints: format, storage layout, verification and loading; safe against failing storage."""
