"""Packed data: shards, their order, and batches."""
