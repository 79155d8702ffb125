"""The records of a run in storage."""
