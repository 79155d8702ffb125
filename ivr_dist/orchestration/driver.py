"""The driver of a run: checks the config against the data, starts the workers, and returns the result.

`train` goes through these steps:

1. Preflight: read the manifests, and refuse anything that a worker could not use. Nothing has been started yet.
2. If the run directory holds a finished run of this config, return its result.
3. Take the driver lease (`run/lease`), so that a run has one driver at a time, and install handlers for SIGINT,
   SIGTERM and SIGHUP: the first signal ends training after a checkpoint, the second at once.
4. Run the workers: in this process if `run.num_workers` is 0, else on Ray (`supervisor`).
5. Read the result that the workers have written.

Ray Train restarts the worker group after a failure. Everything else (which checkpoint counts, what was trained on, when
to stop) is decided in storage and by the workers, so a driver that dies loses nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ivr_dist import storage
from ivr_dist.config import Config
from ivr_dist.config.loading import Loaded
from ivr_dist.display.console import LocalConsole
from ivr_dist.errors import IvrError, StorageError, UserError
from ivr_dist.inspection.existing_run import finished_result, read_result
from ivr_dist.inspection.status import status
from ivr_dist.orchestration.preflight import absolute, preflight
from ivr_dist.orchestration.stop_signals import StopNow, stop_signals
from ivr_dist.planning.model_inputs import run_inputs
from ivr_dist.planning.plan import describe
from ivr_dist.run.lease import StoppedWaiting, hold
from ivr_dist.run.results import Result

logger = logging.getLogger(__name__)

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    run_url: str
    """The run directory, an absolute path or URL."""
    result: Result | None
    """None if the run was stopped before its end."""
    exit_code: int
    """That of the command: 0, or 128 plus the number of the signal that was received."""
    by_stop_file: bool = False
    """Whether the run's stop file ended it."""
    time_spent: Mapping[str, float] | None = None
    """Seconds by part, over all attempts; None if nothing was trained."""


def train(
    config: Config,
    console: LocalConsole,
    *,
    loaded: Loaded | None = None,
    debug: bool = False,
    on_plan: Callable[[Rows], None] = lambda rows: None,
) -> Outcome:
    """Train and evaluate a run; continue one that has begun. See the module for the steps.

    Args:
        config: The run's config.
        console: Receives the events of the workers; its `stop` ends the run after a checkpoint.
        loaded: The config with the origins of its values, for errors.
        debug: Print what Ray and the workers print.
        on_plan: Called with the rows of the plan once it is known that there is something to train.

    Raises:
        UserError: The config, the data or the content of the run directory cannot work; nothing was started.
        IvrError: The run failed.
    """
    config = absolute(config)
    run_url, started = config.run.dir, time.time()
    worlds = config.run.world_sizes
    plan, manifests = preflight(config, worlds[-1], loaded, worlds[:-1])
    _check_run_dir(run_url)
    record = finished_result(config, plan.total_steps, manifests)
    if record is not None:
        logger.info("%s is complete already", storage.display(run_url))
        return Outcome(run_url, Result.from_record(record, trained=False), 0)
    on_plan(describe(plan, config, None, run_inputs(config, manifests)))
    code = _run_workers(config, console, debug, started)
    by_stop_file = console.how == "stop file"
    # A signal, or the console; a supervisor that is stopped while it waits for a cluster reports no ending at all.
    if by_stop_file or (console.stop.is_set() and console.how not in ("finished", "early")):
        return Outcome(run_url, None, 0 if by_stop_file else code, by_stop_file, console.time_spent)
    record = read_result(run_url)
    if record is None:
        raise IvrError("the workers ended without a result", where=run_url, remedy="run again with --debug")
    # A signal can arrive when nothing is left to stop, such as while the test split is scored: a result and a code.
    return Outcome(run_url, Result.from_record(record), code, time_spent=console.time_spent)


def stopped_result(run_url: str) -> Result:
    """The state of a run that was stopped before its end: how far it came, and its newest complete checkpoint."""
    state = status(run_url)
    return Result(
        run=run_url,
        status="stopped",
        metrics={},
        checkpoint=state.checkpoint,
        steps=state.step,
        total_steps=state.total_steps,
        attempts=state.attempts,
        modalities=tuple(state.modalities),
    )


def _check_run_dir(run_url: str) -> None:
    """Create the run directory, so that an error is raised before the workers start."""
    try:
        storage.make_dirs(run_url)
    except StorageError as error:
        raise UserError(
            f"run.dir cannot be used: {error.what}", where=storage.display(run_url), remedy="choose another run.dir"
        ) from error


def _run_workers(config: Config, console: LocalConsole, debug: bool, started: float) -> int:
    """Hold the lease and run the workers to their end; returns the exit code of a signal, 0 without one."""
    with stop_signals(console.stop) as received, suppress(StopNow, StoppedWaiting):
        with hold(config.run.dir, console, console.stop) as lease:
            if config.run.most_workers == 0:
                from ivr_dist.orchestration.worker import run_in_process

                run_in_process(config, console)
            else:
                from ivr_dist.orchestration.supervisor import run_on_ray

                run_on_ray(config, console, debug, started)
        if lease.error is not None:
            raise lease.error
    return received.code
