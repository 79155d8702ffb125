"""Common helpers: decoding, JSON, file signatures, errors of libraries."""
