"""Data loading: from shards to the batches of one rank, in a reproducible order, while training."""
