"""Batching: samples become padded tensors, by collation, tokenization and length bucketing."""
