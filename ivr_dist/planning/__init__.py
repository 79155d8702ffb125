"""Planning: derive batch split, steps and DeepSpeed config from a config, the data and the machines. Pure functions."""
