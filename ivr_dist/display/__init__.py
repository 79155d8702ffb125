"""Everything a person reads: tables, progress, the console, the HTML page."""
