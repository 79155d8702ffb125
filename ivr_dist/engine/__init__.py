"""DeepSpeed engine, ZeRO layouts and parameter groups."""
