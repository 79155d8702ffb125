"""Output for people: tables, progress bars, the console of a run, the HTML report."""
