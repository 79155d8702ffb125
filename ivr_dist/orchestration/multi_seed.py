"""Multi-seed training: one run for each seed of one config, then mean and standard deviation of the metrics."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TextIO

from ivr_dist import storage
from ivr_dist.config.loading import Loaded
from ivr_dist.errors import ConfigError, UserError, raise_together
from ivr_dist.inspection.existing_run import finished_result
from ivr_dist.orchestration.preflight import absolute, preflight
from ivr_dist.orchestration.successive_runs import PlannedRun, train_each
from ivr_dist.run.paths import RunPaths

Metrics = Mapping[str, Mapping[str, float | None]]


def parse_seeds(text: str) -> list[int]:
    """Parse a list of seeds such as `0,1,2`; the order is kept.

    Raises:
        ConfigError: It is not a list of distinct integers, 0 or above.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text} is not a list of different seeds", remedy="write it like 0,1,2")
    return seeds


def train_seeds(
    path: str,
    overrides: Sequence[str],
    seeds: Sequence[int],
    loaded: Loaded,
    stream: TextIO,
    *,
    debug: bool = False,
) -> tuple[int, dict[str, Any] | None]:
    """Train each seed in `run.dir/seed-N`, and summarize the metrics.

    Each seed is trained in a separate process and is a run like any other: a complete one is not trained again, an
    interrupted one is continued. All run directories are checked before the first seed is trained.

    Args:
        path: The config file.
        overrides: Overrides of the file; a `run.seed` among them is replaced.
        seeds: Values of `run.seed`.
        loaded: The config of file and overrides.
        stream: Destination of the output of each seed.
        debug: Print what Ray and the workers print.

    Returns:
        The exit code (0, or that of the first seed that did not finish), and the content of `seeds.json`: the seeds,
        and their metrics as `summarize` makes them; None if a seed did not finish.

    Raises:
        UserError: The config or the data cannot work, or directories hold runs of another config, which are all named.
    """
    run_dir = loaded.config.run.dir
    seed_dirs = {seed: RunPaths(run_dir).seed_run(seed) for seed in seeds}
    _check(loaded, seed_dirs)
    runs = [PlannedRun(f"seed {seed}", seed_dir, [f"run.seed={seed}"]) for seed, seed_dir in seed_dirs.items()]
    code, results = train_each(path, overrides, runs, stream, debug=debug)
    if results is None:
        return code, None
    summary = {"seeds": list(seeds), "metrics": summarize([result["metrics"] for result in results])}
    storage.write_json(RunPaths(run_dir).seeds_summary, summary)
    return 0, summary


def _check(loaded: Loaded, seed_dirs: Mapping[int, str]) -> None:
    """Refuse run directories that hold runs of another config, all of them at once."""
    config = absolute(loaded.config)
    worlds = config.run.world_sizes
    plan, manifests = preflight(config, worlds[-1], loaded, worlds[:-1])
    errors: list[UserError] = []
    for seed, seed_dir in seed_dirs.items():
        run = replace(config.run, seed=seed, dir=storage.absolute(seed_dir))
        try:
            finished_result(replace(config, run=run), plan.total_steps, manifests)
        except UserError as error:
            errors.append(error)
    raise_together(errors)


def summarize(runs: Sequence[Metrics]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and sample standard deviation over runs, by split and metric, for metrics with a value in every run."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for split, metrics in runs[0].items():
        summary[split] = {}
        for name in metrics:
            values = [value for run in runs if (value := run[split][name]) is not None]
            if len(values) == len(runs):
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                summary[split][name] = {"mean": statistics.mean(values), "std": spread, "values": values}
    return summary
