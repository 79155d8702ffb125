"""One attempt of a run: the loop, its step, and what happens beside it."""
