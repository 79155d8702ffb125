"""Batching: collation of samples into padded tensors, tokenization, length bucketing."""
