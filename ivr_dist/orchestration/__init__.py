"""Getting work onto machines: the driver process, Ray, jobs."""
