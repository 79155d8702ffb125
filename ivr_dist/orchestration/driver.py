"""The driver of a run: checks what can be checked before workers start, starts them, and tells what they do.

Ray Train restarts the worker group after a failure; everything else (which checkpoint counts, what was trained on,
when to stop) is decided in storage and by the workers, so a driver that dies loses nothing either.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import Any, TextIO

from ivr_dist import storage
from ivr_dist.config import Config
from ivr_dist.config.loading import Loaded
from ivr_dist.display.console import LocalConsole
from ivr_dist.display.tables import print_metrics, print_result, print_rows
from ivr_dist.errors import DataError, IvrError, StorageError, UserError
from ivr_dist.inspection.existing_run import finished_result, read_result
from ivr_dist.inspection.status import status
from ivr_dist.orchestration.preflight import absolute, preflight
from ivr_dist.orchestration.stop_signals import StopNow, stop_signals
from ivr_dist.planning.model_inputs import reading
from ivr_dist.planning.plan import describe
from ivr_dist.run import goodput
from ivr_dist.run.lease import StoppedWaiting, hold
from ivr_dist.run.ledger import read_lineage
from ivr_dist.run.paths import HISTORY, RunPaths
from ivr_dist.sanitize import say
from ivr_dist.shards.manifest import Manifest


def train(config: Config, *, loaded: Loaded | None = None, json_output: bool = False, debug: bool = False) -> int:
    """Train, evaluate, and tell how it went.

    Args:
        config: The run's config.
        loaded: Where the config came from, which errors then tell.
        json_output: End with one JSON object on stdout; everything else goes to stderr.
        debug: Show tracebacks of workers.

    Returns:
        The exit code: 0 done, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.

    Raises:
        UserError: The config, the data or what the run directory holds cannot work; nothing was started.
        IvrError: The run failed.
    """
    config = absolute(config)
    stream = sys.stderr if json_output else sys.stdout
    started = time.time()
    worlds = config.run.world_sizes
    plan, manifests = preflight(config, worlds[-1], loaded, worlds[:-1])
    run_url = config.run.dir
    _check_run_dir(run_url)
    result = finished_result(config, plan.total_steps, manifests)
    trained = result is None
    if result is None:
        print_rows(describe(plan, config, None, reading(config, manifests["train"])), stream)
        code, console = _execute(config, stream, debug, started)
        print_rows(goodput.rows(console.time_spent), stream)
        if console.how == "stop file":
            by = storage.display(RunPaths(run_url).stop_file)
            say(f"ended by {by}; the same command continues this run", stream)
            if json_output:
                print(json.dumps(_stopped(run_url)))
            return 0
        if code and console.how not in ("finished", "early"):
            say(f"stopped; the same command continues this run: {storage.display(config.run.dir)}", stream)
            return code
        result = read_result(run_url)
        if result is None:
            raise IvrError("the workers ended without a result", where=run_url, remedy="run again with --debug")
        if code:
            # The signal came when there was nothing left to stop, such as while the test split was scored.
            print_result(result, stream)
            return code
    else:
        say(
            f"this run is complete already ({result['steps']} steps); "
            "choose another run.dir, or run.resume=never to train it anew",
            stream,
        )
    print_result(result, stream)
    if json_output:
        print(json.dumps({**result, "trained": trained, "loss": loss_curve(run_url)}))
    return 0


def _stopped(run_url: str) -> dict[str, Any]:
    """What `train --json` says of a run that its stop file has ended."""
    found = status(run_url)
    return {
        "run": storage.display(run_url),
        "status": "stopped",
        "checkpoint": found["checkpoint"],
        "steps": found["step"],
        "total_steps": found["total_steps"],
        "attempts": found["attempts"],
        "modalities": found["modalities"],
        "metrics": {},
        "trained": True,
        "loss": loss_curve(run_url),
    }


def _check_run_dir(run_url: str) -> None:
    """Find out before the workers start that a run directory cannot be made."""
    try:
        storage.make_dirs(run_url)
    except StorageError as error:
        raise UserError(
            f"run.dir cannot be used: {error.what}", where=storage.display(run_url), remedy="choose another run.dir"
        ) from error


def evaluate(
    checkpoint: str,
    *,
    shards: str | None = None,
    split: str = "test",
    num_workers: int | None = None,
    json_output: bool = False,
) -> int:
    """Score a checkpoint and print its metrics.

    Args:
        checkpoint: Its directory or URL.
        shards: The packed split to score; None for the run's own.
        split: Which of the run's own splits.
        num_workers: Processes of this machine that share the work; None for one.
        json_output: Print one JSON object instead of a table.
    """
    from ivr_dist.checkpoint.store import read_state
    from ivr_dist.checkpoint.weights import stored_config
    from ivr_dist.evaluation.score_checkpoint import score_checkpoint

    url = storage.absolute(checkpoint)
    if shards is None:
        state = read_state(url)
        data = stored_config(state, url).data
        shards = {"train": data.train, "valid": data.valid, "test": data.test}.get(split, "")
        if not shards:
            raise DataError(
                f"the run had no {split} split", where=url, remedy="give one with --shards, or another --split"
            )
        # Checkpoints of older versions have no manifest ids.
        if state.manifests.get(split, "") not in ("", Manifest.load(shards).id):
            raise DataError(
                f"the {split} split is not the one that the run had: its manifest is another one",
                where=storage.display(shards),
                remedy=f"give it with --shards if it is what is to be scored: --shards {shards}",
            )
    found = score_checkpoint(url, storage.absolute(shards), num_workers or 1)
    if json_output:
        print(json.dumps({"checkpoint": storage.display(url), "shards": storage.display(shards), "metrics": found}))
    else:
        print_metrics({split: found}, sys.stdout)
    return 0


def loss_curve(run_url: str) -> list[tuple[int, float]]:
    """[step, loss] of every step that counts, over all attempts."""
    records = (record for _, _, record in read_lineage(run_url, HISTORY))
    return sorted((record["step"], record["loss"]) for record in records if "loss" in record)


def _execute(config: Config, stream: TextIO, debug: bool, started: float) -> tuple[int, LocalConsole]:
    """Run the workers; returns the exit code that a signal asked for, and what was told."""
    console = LocalConsole(stream)
    with stop_signals(console.stop) as received, suppress(StopNow, StoppedWaiting):
        with hold(config.run.dir, console, console.stop) as held:
            if config.run.most_workers == 0:
                from ivr_dist.orchestration.worker import run_in_process

                run_in_process(config, console)
            else:
                from ivr_dist.orchestration.supervisor import run_on_ray

                run_on_ray(config, console, debug, started)
        if held.error is not None:
            raise held.error
    return received.code, console
