"""Read-only questions about data and runs that exist; returns data, prints nothing."""
