"""Inspection of packed data and runs: verify, profile, status, audit. Read-only; prints nothing."""
