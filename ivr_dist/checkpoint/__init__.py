"""Checkpoints: what a run can be continued from, on storage that may fail at any moment."""
