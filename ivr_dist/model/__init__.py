"""The fusion models and their parts."""
