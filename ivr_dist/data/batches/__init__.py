"""From samples to padded batches."""
