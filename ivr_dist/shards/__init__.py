"""The shard format: encoding and decoding of samples, indexes and manifests. Independent of training."""
