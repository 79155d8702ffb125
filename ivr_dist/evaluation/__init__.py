"""Scoring: each sample of a split once, and the metrics of the field."""
