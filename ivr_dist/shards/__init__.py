"""The format on disk: bytes to samples and back; knows nothing of training."""
