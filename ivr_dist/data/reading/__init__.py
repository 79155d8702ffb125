"""Reading shards: byte ranges, caches, prefetching."""
