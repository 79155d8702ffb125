"""Plans: what a config means for given data and machines. Pure functions."""
