"""Corpora: cards, sources and the readers of their files."""
