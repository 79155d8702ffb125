"""Evaluation: exact scoring of a split over all ranks, and the metrics of the field."""
