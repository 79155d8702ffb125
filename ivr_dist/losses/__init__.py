"""Loss terms, their global normalizers, and their sums over ranks and micro-steps."""
