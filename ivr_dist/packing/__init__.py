"""Packing: corpora become shards. Also the indexing of tars made elsewhere, and the worker pools that do both."""
