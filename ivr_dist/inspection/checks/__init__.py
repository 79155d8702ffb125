"""Checks of packed data; each module checks one level of the format."""
