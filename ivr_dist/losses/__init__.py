"""The loss terms, their global normalizers, and how they are summed over ranks and micro-steps."""
