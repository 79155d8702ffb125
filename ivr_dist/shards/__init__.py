"""The shard format: bytes to samples and back. Independent of training."""
