"""One config trained with several seeds: a run of its own for each, then mean and standard deviation over them."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, TextIO

from ivr_dist import storage
from ivr_dist.config.loading import Loaded, override
from ivr_dist.display.tables import print_rows, print_table
from ivr_dist.errors import ConfigError, UserError, raise_together
from ivr_dist.inspection.existing_run import finished_result, read_result
from ivr_dist.orchestration.preflight import absolute, preflight
from ivr_dist.run.paths import RunPaths
from ivr_dist.sanitize import say

Metrics = Mapping[str, Mapping[str, float | None]]


def parse_seeds(text: str) -> list[int]:
    """The seeds of `0,1,2`, in this order.

    Raises:
        ConfigError: It is not a list of different whole numbers from 0 on.
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
    *,
    json_output: bool = False,
    debug: bool = False,
) -> int:
    """Train every seed in `run.dir/seed-N` and summarise.

    Each seed is a process of its own, so that none sees what another one left behind, and a run like any other: one
    that is complete is not trained again, one that was interrupted is continued. All directories are looked at before
    the first seed is trained.

    Args:
        path: The config file.
        overrides: Keys set over it; `run.seed` among them is not used.
        seeds: Values of `run.seed`.
        loaded: The config that file and overrides make.
        json_output: End with one JSON object on stdout; everything else goes to stderr.
        debug: Show tracebacks of workers.

    Returns:
        The exit code: 0, or that of the first seed that did not finish.

    Raises:
        UserError: The config or the data cannot work, or a directory holds a run of another config; the text names
            all of them.
    """
    run_dir = loaded.config.run.dir
    _check(loaded, {seed: RunPaths(run_dir).seed_run(seed) for seed in seeds})
    stream = sys.stderr if json_output else sys.stdout
    results = []
    for number, seed in enumerate(seeds, start=1):
        place = RunPaths(run_dir).seed_run(seed)
        say(f"seed {seed} ({number} of {len(seeds)})", stream, flush=True)
        options = [*overrides, f"run.seed={seed}", override("run.dir", place), *(["--debug"] if debug else [])]
        code = _train_one([path, *options], stream)
        result = None if code else read_result(storage.absolute(place))
        if result is None:
            # Ended by its stop file, if the code is 0.
            return code
        results.append(result["metrics"])
    summary = {"seeds": list(seeds), "metrics": summarise(results)}
    storage.write_json(RunPaths(run_dir).seeds_summary, summary)
    _print_summary(summary, RunPaths(run_dir).seeds_summary, stream)
    if json_output:
        print(json.dumps(summary))
    return 0


def _check(loaded: Loaded, places: Mapping[int, str]) -> None:
    """Refuse directories that hold something else, all of them at once."""
    config = absolute(loaded.config)
    worlds = config.run.world_sizes
    plan, manifests = preflight(config, worlds[-1], loaded, worlds[:-1])
    found: list[UserError] = []
    for seed, place in places.items():
        run = replace(config.run, seed=seed, dir=storage.absolute(place))
        try:
            finished_result(replace(config, run=run), plan.total_steps, manifests)
        except UserError as error:
            found.append(error)
    raise_together(found)


def summarise(runs: Sequence[Metrics]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and sample standard deviation over the runs, by split and metric; a metric must have a value in each."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for split, metrics in runs[0].items():
        summary[split] = {}
        for name in metrics:
            values = [value for run in runs if (value := run[split][name]) is not None]
            if len(values) == len(runs):
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                summary[split][name] = {"mean": statistics.mean(values), "std": spread, "values": values}
    return summary


def _train_one(arguments: Sequence[str], stream: TextIO) -> int:
    command = [sys.executable, "-m", "ivr_dist", "train", *arguments]
    # In a group of its own, so that a terminal's Ctrl-C reaches it once: through here, like any other signal.
    process = subprocess.Popen(command, stdout=stream, process_group=0)
    with _signals_passed_to(process):
        code = process.wait()
    # A process that a signal ended has its negative number here; a shell says 128 plus the number.
    return code if code >= 0 else 128 - code


@contextmanager
def _signals_passed_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave it to the seed in training to stop well, or at once when asked twice."""

    def forward(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _print_summary(summary: Mapping[str, Any], place: str, stream: TextIO) -> None:
    rows = [
        (f"{split} {name}", f"{cell['mean']:.4f}", f"{cell['std']:.4f}", *(f"{value:.4f}" for value in cell["values"]))
        for split, metrics in summary["metrics"].items()
        for name, cell in metrics.items()
    ]
    print_table(("metric", "mean", "std", *(f"seed {seed}" for seed in summary["seeds"])), rows, stream)
    print_rows([("summary", storage.display(place))], stream)
