"""What a corpus is, and how its own files are read."""
