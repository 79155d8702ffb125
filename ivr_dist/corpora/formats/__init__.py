"""The formats of corpus cards, one a module."""
