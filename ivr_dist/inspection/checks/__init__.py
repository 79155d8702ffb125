"""Checks of packed data, one level of the format a module."""
