"""Distributed training of invariant-representation fusion models with sequential variation regularization."""

__version__ = "0.2.0"
