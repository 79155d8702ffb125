"""Trained models outside training: load, predict, evaluate. Needs neither Ray nor DeepSpeed."""
