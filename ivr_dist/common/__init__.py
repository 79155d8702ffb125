"""Helpers without a package of their own: decoding, JSON, file signatures, errors of libraries."""
