"""Corpus formats: one module for each `format` of cards."""
