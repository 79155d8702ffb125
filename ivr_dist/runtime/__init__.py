"""The process that a worker lives in."""
