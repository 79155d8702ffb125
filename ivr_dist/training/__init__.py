"""Training: one attempt of a run, its loop, its step and the services around them."""
