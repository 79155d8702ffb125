"""Orchestration: the driver process, Ray workers, jobs, multi-seed runs."""
