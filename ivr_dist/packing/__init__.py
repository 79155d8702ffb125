"""Packing: corpora become shards."""
