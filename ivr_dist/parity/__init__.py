"""The authors' released code: comparison with it and import from it."""
