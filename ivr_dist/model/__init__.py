"""Fusion models: presets, layers and encoders."""
