"""The loss terms, their global normalisers, and how they are summed over ranks and micro-steps."""

from __future__ import annotations

from ivr_dist.losses.layout import StepCounts, StepLayout, local_counts
from ivr_dist.losses.terms import LossTerms, loss_terms, weight_of

__all__ = ["LossTerms", "StepCounts", "StepLayout", "local_counts", "loss_terms", "weight_of"]
