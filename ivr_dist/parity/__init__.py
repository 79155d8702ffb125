"""Parity with the authors' released code: numerical comparison and import of its weights."""
