"""The process of a worker: device, collectives, threads, environment, garbage collection."""
