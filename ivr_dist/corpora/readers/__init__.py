"""Readers of the files that corpora come in."""
