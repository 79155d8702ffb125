"""Readers of source files: pickles, computational sequences, numpy files, texts and padding."""
