"""Pretrained text encoders: loading, word vectors, and the states of their frozen layers."""
