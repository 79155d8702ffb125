"""From shards to the batches of one rank, while training."""
